// Pictures that the browser reads: drawn, and as the gray values that the student sees.

import {Refused} from "./data.js";
import {isPng, pngBits, pngSize, readGray16} from "./png.js";

const MOST_MEGAPIXELS = 40;

export function checkSize(width, height) {
  if (!(width > 0 && height > 0)) throw new Refused("is damaged: it has no pixels.");
  const megapixels = width * height / 1e6;
  if (megapixels > MOST_MEGAPIXELS) {
    const most = `This page takes ${MOST_MEGAPIXELS}. Make it smaller.`;
    throw new Refused(`has ${megapixels.toFixed(0)} megapixels. ${most}`);
  }
}

// Gray as Pillow's convert("L") gives it: ITU-R 601-2 in whole numbers.
export function grayOf(rgba) {
  const gray = new Uint8Array(rgba.length / 4);
  for (let i = 0; i < gray.length; i++) {
    gray[i] = rgba[4 * i] * 19595 + rgba[4 * i + 1] * 38470 + rgba[4 * i + 2] * 7471 + 32768 >>> 16;
  }
  return gray;
}

// Something that a canvas can draw -> {image, gray}; what is transparent lies on black.
export function takeFrame(source, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", {alpha: false, willReadFrequently: true});
  context.drawImage(source, 0, 0, width, height);
  return {image: canvas, gray: grayOf(context.getImageData(0, 0, width, height).data)};
}

export function imageFromGray(gray, width, height) {
  const rgba = new Uint8ClampedArray(4 * gray.length);
  gray.forEach((value, i) => rgba.set([value, value, value, 255], 4 * i));
  return imageFromColors(rgba, width, height);
}

export function imageFromColors(rgba, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d", {alpha: false}).putImageData(new ImageData(rgba, width, height), 0, 0);
  return canvas;
}

export async function decode(blob) {
  const options = {colorSpaceConversion: "none", imageOrientation: "from-image"};
  try {
    return await createImageBitmap(blob, options);
  } catch {
    throw new Refused("cannot be read as a picture. It is damaged, or of a kind that this browser does not know.");
  }
}

export async function openPicture(file, head) {
  if (isPng(head) && head.length >= 24) checkSize(...pngSize(head)); // before it takes memory
  if (isPng(head) && pngBits(head) === 16) return openGray16(file);
  const first = await decode(file);
  checkSize(first.width, first.height);
  const {width, height} = first;
  first.close();
  const frame = async () => {
    const bitmap = await decode(file), taken = takeFrame(bitmap, width, height);
    bitmap.close();
    return taken;
  };
  return {width, height, count: 1, frame};
}

async function openGray16(file) {
  const {width, height, gray} = await readGray16(new Uint8Array(await file.arrayBuffer()));
  return {width, height, count: 1, frame: async () => ({image: imageFromGray(gray, width, height), gray})};
}
