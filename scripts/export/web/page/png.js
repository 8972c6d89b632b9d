// PNG as browsers do not handle it: 16-bit gray is read, 8-bit gray is written.

import {Refused, gunzip, through} from "./data.js";

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const DEPTHS = [8, 10, 12, 14, 16]; // bits that cameras and scanners deliver

export function isPng(bytes) {
  return SIGNATURE.every((byte, i) => bytes[i] === byte);
}

// White, for whole numbers up to `largest`: 255, 1023, 4095, 16383 or 65535, as in scripts/data/brightness.py.
export function fullScale(largest) {
  return 2 ** DEPTHS.find(bits => largest < 2 ** bits) - 1;
}

export function pngBits(bytes) {
  return bytes[24];
}

// Width and height.
export function pngSize(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return [view.getUint32(16), view.getUint32(20)];
}

// Gray in 8 bits, with its width and height, from a PNG of 16 bits.
export async function readGray16(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [width, height] = pngSize(bytes), [, color, , , interlaced] = bytes.subarray(24, 29);
  if (color !== 0 || interlaced) {
    throw new Refused("has 16 bits a color, or is interlaced, which this page does not read. Save it with 8 bits.");
  }
  const parts = [];
  for (let at = 8; at + 8 <= bytes.length;) {
    const length = view.getUint32(at), kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (kind === "IDAT") parts.push(bytes.subarray(at + 8, at + 8 + length));
    at += 12 + length;
  }
  const data = await gunzip(new Uint8Array(await new Blob(parts).arrayBuffer()), "deflate");
  if (data.length < height * (2 * width + 1)) throw new Refused("is damaged: it has fewer pixels than it says.");
  return {width, height, gray: toEight(unfilter(data, width, height))};
}

// Undoes the prediction of each byte from those to the left, above, and above to the left.
function unfilter(data, width, height) {
  const row = 2 * width, out = new Uint8Array(row * height);
  for (let y = 0; y < height; y++) {
    const kind = data[y * (row + 1)];
    for (let x = 0; x < row; x++) {
      const i = y * row + x, left = x >= 2 ? out[i - 2] : 0, above = y ? out[i - row] : 0;
      const corner = x >= 2 && y ? out[i - row - 2] : 0;
      out[i] = data[y * (row + 1) + 1 + x] + predict(kind, left, above, corner);
    }
  }
  return Uint16Array.from({length: width * height}, (_, i) => out[2 * i] << 8 | out[2 * i + 1]);
}

function predict(kind, left, above, corner) {
  if (kind < 2) return kind ? left : 0;
  if (kind === 2) return above;
  return kind === 3 ? left + above >> 1 : paeth(left, above, corner);
}

function paeth(left, above, corner) {
  const guess = left + above - corner;
  const [a, b, c] = [Math.abs(guess - left), Math.abs(guess - above), Math.abs(guess - corner)];
  return a <= b && a <= c ? left : b <= c ? above : corner;
}

function toEight(values) {
  let largest = 0;
  for (const value of values) if (value > largest) largest = value;
  const white = fullScale(largest);
  return Uint8Array.from(values, value => Math.round(255 * value / white));
}

// A PNG file of gray values in 8 bits.
export async function writeGray(gray, width, height) {
  const rows = new Uint8Array(height * (width + 1));
  for (let y = 0; y < height; y++) rows.set(gray.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const head = new Uint8Array(13), view = new DataView(head.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  head.set([8, 0, 0, 0, 0], 8);
  const packed = await through(rows, new CompressionStream("deflate"));
  const chunks = [chunk("IHDR", head), chunk("IDAT", packed), chunk("IEND", new Uint8Array())];
  return new Blob([new Uint8Array(SIGNATURE), ...chunks], {type: "image/png"});
}

function chunk(kind, data) {
  const out = new Uint8Array(12 + data.length), view = new DataView(out.buffer);
  view.setUint32(0, data.length);
  out.set(Array.from(kind, letter => letter.charCodeAt(0)), 4);
  out.set(data, 8);
  view.setUint32(8 + data.length, crc(out.subarray(4, 8 + data.length)));
  return out;
}

function crc(bytes) {
  let value = -1;
  for (const byte of bytes) {
    value ^= byte;
    for (let bit = 0; bit < 8; bit++) value = value >>> 1 ^ (value & 1 ? 0xEDB88320 : 0);
  }
  return (value ^ -1) >>> 0;
}
