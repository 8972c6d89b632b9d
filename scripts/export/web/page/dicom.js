// Ultrasound from DICOM, read with dicom-parser: uncompressed, JPEG baseline and RLE. As scripts/data/dicom.py.

import {Refused} from "./data.js";
import {checkSize, decode, grayOf, imageFromColors, takeFrame} from "./pictures.js";
import {fullScale} from "./png.js";
import {readScales} from "./spacing.js";

const JPEG = "1.2.840.10008.1.2.4.50", RLE = "1.2.840.10008.1.2.5";
const PLAIN = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"];
const OTHERS = [
  [/^1\.2\.840\.10008\.1\.2\.2$/, "big endian"], [/^1\.2\.840\.10008\.1\.2\.1\.99$/, "deflated"],
  [/\.4\.(57|70)$/, "JPEG Lossless"], [/\.4\.8[01]$/, "JPEG-LS"], [/\.4\.9[0-3]$/, "JPEG 2000"],
  [/\.4\.20[1-3]$/, "JPEG 2000 (HTJ2K)"], [/\.4\.10\d(\.1)?$/, "a video (MPEG or H.26x)"],
];

export function isDicom(head, name) {
  return String.fromCharCode(...head.subarray(128, 132)) === "DICM" || /\.(dcm|dicom)$/i.test(name);
}

export async function openDicom(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  let data;
  try {
    data = globalThis.dicomParser.parseDicom(bytes);
  } catch (error) {
    throw new Refused(`is no DICOM file, or is damaged (${error?.exception ?? error?.message ?? error}).`);
  }
  const about = describe(data);
  checkDicom(about, data);
  const {columns: width, rows: height, count} = about;
  return {width, height, count, frame: frameReader(about, data, bytes), scales: readScales(data, width, height)};
}

function describe(data) {
  const text = tag => data.string(tag)?.trim();
  return {
    syntax: text("x00020010") ?? PLAIN[0], modality: text("x00080060") || "none",
    rows: data.uint16("x00280010"), columns: data.uint16("x00280011"), count: Number(text("x00280008") || 1),
    samples: data.uint16("x00280002") ?? 1, photometric: text("x00280004") ?? "MONOCHROME2",
    planar: data.uint16("x00280006") ?? 0, allocated: data.uint16("x00280100"), stored: data.uint16("x00280101"),
    signed: data.uint16("x00280103") === 1, pixels: data.elements.x7fe00010,
    center: Number(text("x00281050")?.split("\\")[0] ?? NaN), width: Number(text("x00281051")?.split("\\")[0] || NaN),
    slope: Number(text("x00281053") ?? 1), intercept: Number(text("x00281052") ?? 0),
    shape: text("x00281056") || "LINEAR",
  };
}

function checkDicom(about, data) {
  const {syntax, modality, pixels, allocated, samples, photometric} = about;
  if (!pixels) throw new Refused("is DICOM without pixel data.");
  if (modality !== "US") {
    throw new Refused(`has the modality ${modality}, expected US. The student has seen ultrasound alone.`);
  }
  if (![...PLAIN, JPEG, RLE].includes(syntax)) {
    const name = OTHERS.find(([pattern]) => pattern.test(syntax))?.[1] ?? syntax;
    throw new Refused(`is stored as ${name}, which this page does not decode. Save it uncompressed.`);
  }
  const colors = ["RGB", "YBR_FULL"].includes(photometric) || (syntax === JPEG && photometric === "YBR_FULL_422");
  const known = colors ? samples === 3 : samples === 1 && /^(MONOCHROME[12]|PALETTE COLOR)$/.test(photometric);
  if (!known || (syntax === JPEG && ["RGB", "PALETTE COLOR"].includes(photometric))) {
    throw new Refused(`has colors of the kind ${photometric}, which this page does not read. Save it as RGB.`);
  }
  if (allocated !== 8 && !(allocated === 16 && samples === 1 && syntax !== JPEG)) {
    throw new Refused(`has ${allocated} bits a value, which this page does not read.`);
  }
  checkSize(about.columns, about.rows);
  const size = about.columns * about.rows * samples * allocated / 8;
  if (PLAIN.includes(syntax) && pixels.length < size * about.count) {
    throw new Refused("is damaged: it has fewer pixels than it says.");
  }
}

// Gives frame(index) -> {image, gray}.
function frameReader(about, data, bytes) {
  const {columns, rows, photometric, samples} = about;
  if (about.syntax === JPEG) {
    return async index => {
      const bitmap = await decode(new Blob([part(data, about, index)], {type: "image/jpeg"}));
      const taken = takeFrame(bitmap, columns, rows);
      bitmap.close();
      return photometric === "MONOCHROME1" ? colored(taken.gray.map(value => 255 - value), about) : taken;
    };
  }
  const values = index => stored(about, about.syntax === RLE ? unpackRle(part(data, about, index), about)
    : plainFrame(about, bytes, index));
  if (samples === 3) return async index => finish(toRgba(values(index), about), about);
  if (photometric === "PALETTE COLOR") {
    const table = palette(data);
    return async index => finish(lookUp(values(index), table), about);
  }
  const level = grayLevels(about, values);
  return async index => colored(Uint8Array.from(values(index), level), about);
}

function plainFrame({columns, rows, samples, allocated, pixels}, bytes, index) {
  const size = columns * rows * samples * allocated / 8, start = pixels.dataOffset + index * size;
  return bytes.slice(start, start + size);
}

function part(data, {pixels, count}, index) {
  const {readEncapsulatedPixelDataFromFragments: read, createJPEGBasicOffsetTable: table} = globalThis.dicomParser;
  try {
    if (count === 1) return read(data, pixels, 0, pixels.fragments.length);
    if (pixels.fragments.length === count) return read(data, pixels, index, 1);
    const offsets = pixels.basicOffsetTable.length ? pixels.basicOffsetTable : table(data, pixels);
    return globalThis.dicomParser.readEncapsulatedImageFrame(data, pixels, index, offsets);
  } catch (error) {
    throw new Refused(`is damaged: frame ${index + 1} cannot be read (${error?.message ?? error}).`);
  }
}

// The values of a frame, without what stands in the bits above those that are stored, such as an overlay.
function stored({allocated, stored: bits, signed}, bytes) {
  const kind = allocated === 8 ? (signed ? Int8Array : Uint8Array) : signed ? Int16Array : Uint16Array;
  const values = new kind(bytes.buffer), unused = allocated - bits;
  if (unused > 0) {
    for (let i = 0; i < values.length; i++) {
      values[i] <<= unused;
      values[i] >>= unused;
    }
  }
  return values;
}

// DICOM PS3.5, annex G: one run-length coded segment for each byte of each sample, the highest byte first.
function unpackRle(bytes, {columns, rows, samples, allocated}) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), size = columns * rows;
  const depth = allocated / 8, out = new Uint8Array(size * samples * depth), segments = samples * depth;
  if (view.getUint32(0, true) !== segments) throw new Refused("is damaged: its RLE has other segments than colors.");
  for (let s = 0; s < segments; s++) {
    const sample = Math.floor(s / depth), byte = depth - 1 - s % depth;
    const put = (i, value) => { out[(i * samples + sample) * depth + byte] = value; };
    let at = view.getUint32(4 + 4 * s, true), i = 0;
    while (i < size && at < bytes.length) {
      const code = view.getInt8(at++);
      if (code === -128) continue;
      const length = Math.min(Math.abs(code) + 1, size - i);
      for (let k = 0; k < length; k++) put(i++, bytes[code < 0 ? at : at + k]);
      at += code < 0 ? 1 : length;
    }
    if (i < size) throw new Refused("is damaged: it has fewer pixels than it says.");
  }
  return out;
}

// A function from a stored value to gray in 8 bits. All frames of a loop have one scale.
function grayLevels(about, values) {
  const {allocated, stored: bits, signed, center, width, shape, slope, intercept, photometric} = about;
  const turn = photometric === "MONOCHROME1" ? gray => 255 - gray : gray => gray;
  const scaled = unit => value => turn(Math.round(255 * Math.min(1, Math.max(0, unit(value)))));
  if (allocated === 8 && bits >= 8 && !signed) return turn;
  if (width > 0 && Number.isFinite(center)) {
    if (shape === "LINEAR" && width > 1) {
      return scaled(value => (value * slope + intercept - (center - 0.5)) / (width - 1) + 0.5);
    }
    if (shape === "LINEAR_EXACT") return scaled(value => (value * slope + intercept - center) / width + 0.5);
    throw new Refused(`has a window of the function ${shape}, which this page does not read. Save it in 8 bits.`);
  }
  if (!signed && bits < allocated) return scaled(value => value / (2 ** bits - 1));
  let low = Infinity, high = -Infinity;
  for (let index = 0; index < about.count; index++) {
    for (const value of values(index)) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  if (low >= 0) return scaled(value => value / fullScale(high));
  return scaled(value => (value - low) / (high - low || 1));
}

function toRgba(values, {columns, rows, planar, photometric, syntax}) {
  const size = columns * rows, rgba = new Uint8ClampedArray(4 * size).fill(255), ybr = photometric !== "RGB";
  const [pixel, sample] = planar === 1 && syntax !== RLE ? [1, size] : [3, 1]; // steps in the values
  for (let i = 0; i < size; i++) {
    const at = i * pixel, a = values[at], b = values[at + sample], c = values[at + 2 * sample];
    rgba[4 * i] = ybr ? a + 1.402 * (c - 128) : a;
    rgba[4 * i + 1] = ybr ? a - 0.344136 * (b - 128) - 0.714136 * (c - 128) : b;
    rgba[4 * i + 2] = ybr ? a + 1.772 * (b - 128) : c;
  }
  return rgba;
}

// Tables of red, green and blue; a descriptor says how many entries one has, the first value, and the bits of an entry.
function palette(data) {
  const tables = ["1", "2", "3"].map(color => {
    const element = data.elements[`x0028120${color}`];
    const [length, first, bits] = [0, 1, 2].map(i => data.uint16(`x0028110${color}`, i));
    if (!element || bits === undefined) throw new Refused("is damaged: its palette is not whole.");
    const entries = length || 65536, wide = element.length >= 2 * entries;
    const view = new DataView(data.byteArray.buffer, data.byteArray.byteOffset + element.dataOffset, element.length);
    const table = Array.from({length: entries}, (_, i) => wide ? view.getUint16(2 * i, true) : view.getUint8(i));
    return {first, table};
  });
  if (!tables.some(({table}) => table.some(value => value > 255))) return tables;
  return tables.map(({first, table}) => ({first, table: table.map(value => value / 257)}));
}

function lookUp(values, tables) {
  const rgba = new Uint8ClampedArray(4 * values.length).fill(255);
  tables.forEach(({first, table}, channel) => {
    values.forEach((value, i) => {
      rgba[4 * i + channel] = table[Math.min(table.length - 1, Math.max(0, value - first))];
    });
  });
  return rgba;
}

function finish(rgba, {columns, rows}) {
  return {image: imageFromColors(rgba, columns, rows), gray: grayOf(rgba)};
}

function colored(gray, about) {
  const rgba = new Uint8ClampedArray(4 * gray.length).fill(255);
  gray.forEach((value, i) => { rgba[4 * i] = rgba[4 * i + 1] = rgba[4 * i + 2] = value; });
  return {...finish(rgba, about), gray};
}
