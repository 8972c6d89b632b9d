// A file that was dropped -> a study: its size, its frames and what is known of its pixels.

import {Refused, settings, unpack} from "./data.js";
import {isDicom, openDicom} from "./dicom.js";
import {imageFromGray, openPicture} from "./pictures.js";
import {openVideo} from "./video.js";

const VIDEO = /\.(mp4|m4v|mov|webm|mkv|avi|mpe?g|wmv|ogv)$/i;

// Gives {name, width, height, count, frame(index) -> {image, gray}, scales, results}. scales: see spacing.js.
export async function openStudy(file) {
  const head = new Uint8Array(await file.slice(0, 348).arrayBuffer());
  const opened = await openKind(file, head);
  return newStudy(file.name, opened);
}

function newStudy(name, opened) {
  return {name, scales: null, rate: null, results: new Map(), waiting: new Map(), drawn: null, ...opened};
}

function openKind(file, head) {
  const starts = (...bytes) => bytes.every((byte, i) => head[i] === byte);
  if (!file.size) throw new Refused("is empty.");
  if (isDicom(head, file.name)) return openDicom(file);
  if (starts(0x49, 0x49, 0x2A, 0) || starts(0x4D, 0x4D, 0, 0x2A)) {
    throw new Refused("is TIFF, which browsers do not read. Save it as PNG.");
  }
  if (/\.nii(\.gz)?$/i.test(file.name)) {
    throw new Refused("is NIfTI, which this page does not read. The command of the bundle does.");
  }
  if (file.type.startsWith("video/") || VIDEO.test(file.name)) return openVideo(file);
  return openPicture(file, head);
}

export async function openExample() {
  const {width, height} = settings.example, gray = await unpack("example");
  const frame = async () => ({image: imageFromGray(gray, width, height), gray});
  return newStudy("example (generated)", {width, height, count: 1, frame});
}
