// The page: files in, the picture with its outline, corrections, files out.

import {classNames, settings, unpackText} from "./data.js";
import {byId, number, say} from "./dom.js";
import {startEngine} from "./engine.js";
import {openExample, openStudy} from "./files.js";
import {listenToKeys} from "./keys.js";
import {FileList} from "./list.js";
import {fromRuns} from "./masks.js";
import {showClasses, showFindings, showPixelSize} from "./panel.js";
import {saveMask, saveMeasurements, saveOverlay, measurements} from "./save.js";
import {Session, keepStroke, restore, undo} from "./session.js";
import {Stage} from "./stage.js";

const session = new Session();
const now = {study: null, index: 0, shown: 0, drawn: false, runs: false}; // what is looked at; drawn: on the stage
const list = new FileList(select, forget);
const stage = new Stage(byId("picture"), {stroked, measured, reserved: () => byId("dock").offsetHeight + 16});

async function addFiles(files) {
  const entries = [...files].map(file => [file, list.add(file.name)]);
  for (const [file, entry] of entries) await openEntry(entry, () => openStudy(file));
}

async function openEntry(entry, opener) {
  document.body.classList.add("open");
  try {
    const study = await opener();
    if (entry.gone) return void study.close?.();
    list.fill(entry, study);
    session.studies.push(study);
    if (!now.study) await select(study);
    else list.draw(study, (await study.frame(0)).image);
    work();
  } catch (error) {
    list.refuse(entry, sentence(error.message));
    if (!now.study) say(`${entry.button.querySelector("b").textContent} ${error.message}`);
  }
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

async function select(study) {
  now.runs = false;
  await show(study, 0);
  list.mark(study);
}

// Shows a frame at once, and its outline when it is found.
async function show(study, index) {
  const turn = ++now.shown, changed = now.study !== study;
  Object.assign(now, {study, index, drawn: false});
  Object.assign(stage, {mask: null, stroke: null}); // a stroke belongs to the frame on which it began
  try {
    const frame = await study.frame(index);
    if (turn !== now.shown) return;
    stage.show(frame.image, study.width, study.height);
    now.drawn = true;
    if (changed) stage.fit();
    if (index === 0) list.draw(study, frame.image);
    refresh();
    if (!study.results.has(index)) say("Segmenting");
    await session.ensure(study, index, frame);
    if (turn === now.shown) refresh();
    list.tell(study);
  } catch (error) {
    study.failed = true;
    list.refuse(study.entry, sentence(error.message));
    if (turn !== now.shown) return;
    if (!now.drawn) stage.show(null, 0, 0);
    refresh();
    say(`${study.name} ${error.message}`);
  }
}

function refresh() {
  const {study, index} = now, result = study?.results.get(index);
  byId("timeline").hidden = !(study?.count > 1);
  document.body.classList.toggle("open", list.list.children.length > 0);
  for (const button of document.querySelectorAll("[data-needs=result]")) button.disabled = !result;
  if (!study) return;
  const mask = result && fromRuns(result.runs, study.width * study.height);
  if (mask && now.drawn) stage.setMask(mask);
  showFindings(study, result, mask);
  showPixelSize(study, stage.line);
  byId("name").textContent = study.name;
  byId("size").textContent = `${study.width} × ${study.height} pixels`;
  byId("undo").disabled = byId("tool-undo").disabled = !result?.undo.length;
  byId("restore").disabled = !result?.corrected;
  Object.assign(byId("frame"), {max: study.count - 1, value: index});
  byId("frame").setAttribute("aria-valuetext", `frame ${index + 1} of ${study.count}`);
  byId("frame-number").textContent = `${index + 1} / ${study.count}`;
  byId("run").textContent = now.runs ? "Stop" : "Segment all";
  if (result) say(`${number(result.milliseconds / 1000, 2)} s for this frame`);
}

// Segments the stills that wait, one after another, while nobody waits for something else.
async function work() {
  if (work.busy) return;
  work.busy = true;
  for (let study; (study = session.unfinished());) {
    try {
      await session.ensure(study, 0);
    } catch (error) {
      study.failed = true;
      list.refuse(study.entry, sentence(error.message));
      continue;
    }
    list.tell(study);
    if (study === now.study) refresh();
  }
  work.busy = false;
}

async function runAll() {
  if (now.runs) return void (now.runs = false, refresh());
  const {study} = now, start = now.index + 1 < study.count ? now.index : 0;
  now.runs = true;
  for (let index = start; now.runs && now.study === study && index < study.count; index++) await show(study, index);
  if (now.study === study) now.runs = false, refresh();
  const pace = session.pace();
  if (pace) say(`${number(pace / 1000, 2)} s a frame`);
}

function step(by) {
  if (!now.study) return;
  const index = Math.min(now.study.count - 1, Math.max(0, now.index + by));
  if (index === now.index) return;
  now.runs = false;
  show(now.study, index);
}

function stepFile(by) {
  const at = session.studies.indexOf(now.study) + by;
  if (session.studies[at]) select(session.studies[at]);
}

function forget(study) {
  const at = session.studies.indexOf(study);
  if (at >= 0) {
    session.studies.splice(at, 1);
    study.close?.();
    if (study === now.study) {
      now.study = null;
      now.shown++; // a frame of it that is still being decoded is not shown
      now.drawn = false;
      stage.show(null, 0, 0);
      const next = session.studies[Math.min(at, session.studies.length - 1)];
      if (next) select(next);
    }
  }
  refresh();
}

function stroked(before) {
  const result = now.study?.results.get(now.index);
  if (!result || !stage.mask) return;
  keepStroke(result, before, stage.mask);
  list.tell(now.study);
  refresh();
}

function change(how) {
  const {study, index} = now, result = study?.results.get(index);
  if (result && how(result)) list.tell(study), refresh();
}

function measured(line) {
  showPixelSize(now.study, line);
  if (line && !now.study.drawn && !now.study.scales) askLength();
}

function askLength() {
  byId("length").returnValue = "";
  byId("length").showModal();
  byId("millimeters").select();
}

function calibrate() {
  const millimeters = Number(byId("millimeters").value), line = stage.line;
  if (byId("length").returnValue !== "use" || !(millimeters > 0) || !line) return;
  const [[x0, y0], [x1, y1]] = line, size = millimeters / Math.hypot(x1 - x0, y1 - y0);
  const same = study => study.width === now.study.width && study.height === now.study.height;
  for (const study of session.studies) {
    if (study === now.study || (byId("all-files").checked && same(study))) study.drawn = size;
  }
  refresh();
}

function useTool(tool) {
  stage.tool = tool;
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
  }
  byId("picture").dataset.tool = tool;
  stage.draw();
}

function resizeBrush(radius) {
  stage.radius = Math.min(100, Math.max(1, radius));
  byId("brush-size").value = stage.radius;
  stage.draw();
}

function toggleOutline() {
  stage.outlined = !stage.outlined;
  byId("outline").setAttribute("aria-pressed", String(stage.outlined));
  stage.draw();
}

const save = how => now.study?.results.has(now.index) && how(now.study, now.index);
const actions = {
  add: () => byId("input").click(),
  example: () => openEntry(list.add("example (generated)"), openExample),
  run: runAll, "calibrate": askLength, "zoom-in": () => stage.zoom(1.25), "zoom-out": () => stage.zoom(0.8),
  fit: () => stage.fit(), outline: toggleOutline, help: () => byId("help").showModal(),
  undo: () => change(undo), restore: () => change(restore),
  "save-mask": () => save(saveMask), "save-overlay": () => save(saveOverlay),
  "save-json": () => saveMeasurements(session.studies, engine.found),
  "brush-smaller": () => resizeBrush(stage.radius - 2), "brush-larger": () => resizeBrush(stage.radius + 2),
  "frame-before": () => step(-1), "frame-after": () => step(1), "file-before": () => stepFile(-1),
  "file-after": () => stepFile(1), move: () => useTool("move"), brush: () => useTool("brush"),
  erase: () => useTool("erase"), ruler: () => useTool("ruler"),
};

function listen() {
  for (const button of document.querySelectorAll("[data-do]")) {
    button.addEventListener("click", () => actions[button.dataset.do]());
  }
  byId("input").addEventListener("change", event => { addFiles(event.target.files); event.target.value = ""; });
  byId("frame").addEventListener("input", event => { now.runs = false; show(now.study, Number(event.target.value)); });
  byId("brush-size").addEventListener("input", event => resizeBrush(Number(event.target.value)));
  byId("length").addEventListener("close", calibrate);
  byId("license-list").addEventListener("toggle", showLicenses, {once: true});
  const lift = up => document.body.classList.toggle("over", up);
  addEventListener("dragover", event => { event.preventDefault(); lift(true); });
  addEventListener("dragleave", event => event.relatedTarget || lift(false));
  addEventListener("drop", event => { event.preventDefault(); lift(false); addFiles(event.dataTransfer.files); });
  addEventListener("paste", event => addFiles(event.clipboardData.files));
  listenToKeys(actions);
}

async function showLicenses() {
  byId("licenses").textContent = await unpackText("license-texts");
}

const engine = {found: null};

function start() {
  showClasses(value => { stage.value = value; });
  useTool("move");
  listen();
  refresh();
  session.engine = startEngine(text => { byId("engine").textContent = text; });
  session.engine.then(found => {
    engine.found = found;
    Object.assign(byId("engine"), {textContent: found.name, title: found.detail});
    byId("engine-detail").textContent = found.detail;
    byId("engine").classList.add("ready");
  }, error => {
    byId("engine").textContent = "cannot start";
    byId("trouble").hidden = false;
    const reason = `The student does not run in this browser. ${sentence(error.message)}`;
    byId("trouble").textContent = `${reason} Try a newer browser.`;
  });
}

// for the console, and for tests
globalThis.app = {
  session, now, stage, addFiles, actions, engine, classNames, settings, show,
  measurements: () => measurements(session.studies, engine.found),
};
start();
