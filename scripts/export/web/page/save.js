// What the page gives away: a mask, a picture with its outline, and the measurements of all files.

import {about, classNames, settings} from "./data.js";
import {fromRuns} from "./masks.js";
import {measure} from "./measure.js";
import {writeGray} from "./png.js";
import {drawOutline, outlinePath} from "./stage.js";

export async function saveMask(study, index) {
  const mask = fromRuns(study.results.get(index).runs, study.width * study.height);
  download(await writeGray(mask, study.width, study.height), `${stem(study, index)}_mask.png`);
}

export async function saveOverlay(study, index) {
  const {image} = await study.frame(index), {width, height} = study;
  const mask = fromRuns(study.results.get(index).runs, width * height);
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const unit = Math.max(1, Math.max(width, height) / 700);
  classNames.forEach((_, i) => drawOutline(context, outlinePath(mask, width, height, i + 1), settings.colors[i], unit));
  download(await canvas.convertToBlob({type: "image/png"}), `${stem(study, index)}_overlay.png`);
}

export function saveMeasurements(studies, engine) {
  const text = JSON.stringify(measurements(studies, engine), null, 1);
  download(new Blob([text], {type: "application/json"}), "lesions.json");
}

// mask_runs: value, count, value, count, ... of the mask, row by row.
export function measurements(studies, engine) {
  const files = studies.filter(study => study.results.size).map(study => ({
    file: study.name,
    width: study.width,
    height: study.height,
    pixel_size: study.drawn ? "drawn" : study.scales ? "file" : null,
    frames: [...study.results].sort(([a], [b]) => a - b).map(([index, result]) => ({
      frame: index,
      seconds: study.rate ? Number(((index + 0.5) / study.rate).toFixed(3)) : null,
      corrected: result.corrected,
      classes: measure(fromRuns(result.runs, study.width * study.height), study, result),
      mask_runs: result.runs,
    })),
  }));
  const {version, checkpoint_sha256: weights, classes, thresholds} = about;
  return {student: {version, checkpoint_sha256: weights, classes, thresholds}, engine: engine?.name ?? null, files};
}

function stem(study, index) {
  const name = study.name.replace(/\.[^.]*$/, "") || study.name;
  return study.count > 1 ? `${name}_frame${index}` : name;
}

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
