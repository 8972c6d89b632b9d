// The size of pixels in millimeters, from DICOM and for a mask, by the rules of scripts/data/regions.py.

const SAME_SCALE = 1e-3; // relative: what scanners round may differ between regions of one scale
const TWO_DIMENSIONAL = 1, NO_UNIT = 0, CENTIMETERS = 3; // codes of RegionSpatialFormat and PhysicalUnits

// Of a data set of dicom-parser: boxes [left, right, top, bottom, width, height] with the size of their pixels in mm,
// NaN where a region has none. null where nothing is known, or a region does not fit the image.
export function readScales(dataSet, columns, rows) {
  const items = dataSet.elements.x00186011?.items ?? [];
  const plain = plainSpacing(dataSet);
  if (!items.length) return plain && [[0, columns, 0, rows, ...plain]];
  const regions = items.map(({dataSet: region}) => ({box: boxOf(region, columns, rows), ...unitsOf(region)}));
  if (regions.some(region => !region.box)) return null;
  const scales = regions.map(({box, spacing}) => [...box, ...(spacing ?? [NaN, NaN])]);
  if (regions.some(region => region.spacing)) return scales;
  if (!plain) return null;
  return [[0, columns, 0, rows, ...plain], ...scales.filter((_, i) => !regions[i].saysNothing)];
}

function plainSpacing(dataSet) {
  const [height, width] = (dataSet.string("x00280030") ?? "").split("\\").map(Number);
  return width > 0 && height > 0 ? [width, height] : null;
}

function boxOf(region, columns, rows) {
  const [left, top, right, bottom] = ["18", "1a", "1c", "1e"].map(tag => region.uint32(`x001860${tag}`));
  const fits = left >= 0 && left < right && right <= columns && top >= 0 && top < bottom && bottom <= rows;
  return fits ? [left, Math.min(right + 1, columns), top, Math.min(bottom + 1, rows)] : null;
}

function unitsOf(region) {
  const format = region.uint16("x00186012") ?? TWO_DIMENSIONAL;
  const units = ["x00186024", "x00186026"].map(tag => region.uint16(tag) ?? NO_UNIT);
  const deltas = ["x0018602c", "x0018602e"].map(tag => Math.abs(region.double(tag) ?? 0));
  const flat = format === TWO_DIMENSIONAL;
  const calibrated = flat && units.every(unit => unit === CENTIMETERS) && deltas.every(delta => delta > 0);
  return {
    spacing: calibrated ? deltas.map(delta => Math.round(1e7 * delta) / 1e6) : null,
    saysNothing: flat && units.every(unit => unit === NO_UNIT),
  };
}

// Width and height of a pixel where a test is true, without one in the whole picture; null where they are not known or
// not the same.
export function spacingWhere(scales, width, height, test = null) {
  if (!scales) return null;
  const found = test ? scalesWhere(scales, width, height, test) : new Set();
  if (!found) return null;
  return oneScale(found.size ? [...found] : scales.filter(scale => scale[4] > 0));
}

// null where a pixel lies in none.
function scalesWhere(scales, width, height, test) {
  const found = new Set();
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (!test(i)) continue;
      let known = false;
      for (const scale of scales) {
        if (x < scale[0] || x >= scale[1] || y < scale[2] || y >= scale[3]) continue;
        known = true;
        found.add(scale);
      }
      if (!known) return null;
    }
  }
  return found;
}

function oneScale(scales) {
  const near = (a, b) => Math.abs(a - b) <= SAME_SCALE * Math.abs(b); // never of NaN
  const [first] = scales;
  if (!first || !scales.every(scale => near(scale[4], first[4]) && near(scale[5], first[5]))) return null;
  return [first[4], first[5]];
}
