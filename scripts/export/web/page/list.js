// The list of files, with a thumbnail each, and a sentence where one cannot be used.

import {byId, make} from "./dom.js";

const SIDE = 88; // of a thumbnail, in pixels

export class FileList {
  constructor(select, remove) {
    Object.assign(this, {select, remove, list: byId("files")});
  }

  // Gives the entry of a file that is being opened.
  add(name) {
    const picture = make("canvas", {width: SIDE, height: SIDE}), note = make("small", {}, "opening");
    const text = make("span", {}, make("b", {}, name), note);
    const button = make("button", {type: "button", className: "file", title: name}, picture, text);
    const about = {type: "button", className: "cross", ariaLabel: `Remove ${name}`, title: "Remove"};
    const cross = make("button", about, "×");
    const item = make("li", {}, button, cross);
    const entry = {item, button, picture, note, study: null};
    button.addEventListener("click", () => entry.study && this.select(entry.study));
    cross.addEventListener("click", () => { item.remove(); entry.gone = true; this.remove(entry.study); });
    this.list.append(item);
    return entry;
  }

  refuse(entry, reason) {
    entry.item.classList.add("refused");
    entry.note.textContent = reason;
    entry.note.setAttribute("role", "alert");
  }

  fill(entry, study) {
    entry.study = study;
    study.entry = entry;
    this.tell(study);
  }

  tell(study) {
    const {count, results, entry} = study, done = results.size;
    entry.item.classList.remove("refused");
    entry.note.removeAttribute("role");
    if (count > 1) entry.note.textContent = `${done} of ${count} frames`;
    else entry.note.textContent = done ? (results.get(0).corrected ? "corrected" : "done") : "waiting";
  }

  draw(study, image) {
    const {picture} = study.entry, context = picture.getContext("2d");
    const scale = Math.max(SIDE / study.width, SIDE / study.height);
    const [width, height] = [scale * study.width, scale * study.height];
    context.imageSmoothingQuality = "high";
    context.drawImage(image, (SIDE - width) / 2, (SIDE - height) / 2, width, height);
  }

  mark(study) {
    for (const item of this.list.children) item.firstChild.removeAttribute("aria-current");
    study?.entry.button.setAttribute("aria-current", "true");
    study?.entry.item.scrollIntoView({block: "nearest", inline: "nearest"});
  }
}
