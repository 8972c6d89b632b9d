// What is measured of a mask: the columns of lesions.csv, without components.

import {about, classNames, settings} from "./data.js";
import {spacingWhere} from "./spacing.js";

const THRESHOLD = about.thresholds.presence;

// A row for each class. result: {presence, confidence, corrected}.
export function measure(mask, study, result) {
  const boxes = classNames.map(() => ({area: 0, left: Infinity, top: Infinity, right: -1, bottom: -1}));
  for (let y = 0, i = 0; y < study.height; y++) {
    for (let x = 0; x < study.width; x++, i++) {
      const box = boxes[mask[i] - 1];
      if (!box) continue;
      box.area += 1;
      if (x < box.left) box.left = x;
      if (x > box.right) box.right = x;
      if (y < box.top) box.top = y;
      box.bottom = y;
    }
  }
  return boxes.map((box, i) => row(box, i + 1, mask, study, result));
}

function row({area, left, top, right, bottom}, number, mask, study, result) {
  const spacing = pixelSize(study, i => mask[i] === number);
  const [width, height] = spacing ?? [null, null];
  const confidence = result.corrected ? null : result.confidence[number - 1];
  const unsure = (confidence !== null && confidence < settings.low_confidence) || isNear(result.presence);
  return {
    class: classNames[number - 1],
    area_px: area,
    area_mm2: spacing && Number((area * width * height).toFixed(4)),
    pixel_width_mm: width,
    pixel_height_mm: height,
    box: area ? [left, top, right, bottom] : null,
    presence: result.presence === null ? null : round(result.presence),
    confidence: confidence === null ? null : round(confidence),
    look: !result.corrected && unsure,
  };
}

// Where a test of a pixel's index is true, or of the whole picture.
export function pixelSize(study, test = null) {
  return study.drawn ? [study.drawn, study.drawn] : spacingWhere(study.scales, study.width, study.height, test);
}

export function isAbsent(presence) {
  return presence !== null && presence < THRESHOLD;
}

// As is_near of scripts/inference/confidence.py.
function isNear(presence) {
  const inside = value => value > 0 && value < 1, odds = value => Math.log(value / (1 - value));
  if (presence === null || !inside(presence) || !inside(THRESHOLD)) return false;
  return Math.abs(odds(presence) - odds(THRESHOLD)) < Math.log(settings.near_odds);
}

function round(value) {
  return Math.round(1e4 * value) / 1e4;
}
