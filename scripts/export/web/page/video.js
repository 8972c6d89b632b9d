// Videos that the browser decodes: it is sent to the middle of one frame after another.

import {Refused} from "./data.js";
import {checkSize, takeFrame} from "./pictures.js";

const USUAL_RATE = 25, MOST_RATE = 130; // frames a second, where the video does not tell and at most
const PATIENCE = 10000; // milliseconds for a step

export async function openVideo(file) {
  const video = document.createElement("video");
  Object.assign(video, {muted: true, playsInline: true, preload: "auto", src: URL.createObjectURL(file)});
  await happened(video, "loadeddata");
  const {videoWidth: width, videoHeight: height} = video;
  if (!width) throw new Refused("has no pictures that this browser decodes. Save it as MP4 (H.264) or WebM.");
  checkSize(width, height);
  if (!Number.isFinite(video.duration)) await findEnd(video);
  const rate = await frameRate(video), count = Math.max(1, Math.round(video.duration * rate));
  const take = async index => {
    await seek(video, Math.min((index + 0.5) / rate, Math.max(0, video.duration - 0.001)));
    return takeFrame(video, width, height);
  };
  let last = Promise.resolve();
  const frame = index => { // one after another: there is one video
    const next = last.then(() => take(index));
    last = next.catch(() => {});
    return next;
  };
  return {width, height, count, frame, rate, close: () => URL.revokeObjectURL(video.src)};
}

function happened(video, name) {
  return new Promise((resolve, reject) => {
    const listeners = new AbortController(), {signal} = listeners;
    const finish = refusal => {
      clearTimeout(timer);
      listeners.abort();
      refusal ? reject(new Refused(`${refusal} Save it as MP4 (H.264) or WebM.`)) : resolve();
    };
    const timer = setTimeout(finish, PATIENCE, "could not be decoded in time.");
    video.addEventListener(name, () => finish(), {signal});
    video.addEventListener("error", () => finish("cannot be decoded by this browser, or is damaged."), {signal});
  });
}

async function seek(video, time) {
  const done = happened(video, "seeked");
  video.currentTime = time;
  await done;
}

// A recording of a browser does not say how long it is, before its end was seen.
async function findEnd(video) {
  await seek(video, 1e7);
  if (!Number.isFinite(video.duration)) throw new Refused("does not say how long it is. Save it as MP4 (H.264).");
}

// From the times of the first frames that are shown.
async function frameRate(video) {
  if (!video.requestVideoFrameCallback) return USUAL_RATE;
  await seek(video, 0);
  const times = [];
  await new Promise(resolve => {
    const timer = setTimeout(resolve, 2000);
    const next = (now, about) => {
      times.push(about.mediaTime);
      if (times.length < 10) video.requestVideoFrameCallback(next);
      else { clearTimeout(timer); resolve(); }
    };
    video.requestVideoFrameCallback(next);
    video.addEventListener("ended", () => { clearTimeout(timer); resolve(); }, {once: true});
    video.play().catch(resolve);
  });
  video.pause();
  const steps = times.slice(1).map((time, i) => time - times[i]).filter(step => step > 1 / MOST_RATE);
  const rate = steps.length ? 1 / Math.min(...steps) : USUAL_RATE; // a busy browser leaves frames out
  return Math.max(1, Math.round(rate * 100) / 100);
}
