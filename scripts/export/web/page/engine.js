// The student in a worker, by WebGPU where the browser has it and the example comes out right, else by WebAssembly.

import {settings, unpack, unpackText} from "./data.js";
import {dice, fromRuns} from "./masks.js";

const LEAST_DICE = 0.999; // of the example, against Python
const MOST_THREADS = 8;

class Engine {
  constructor(worker, name, detail) {
    Object.assign(this, {worker, name, detail, number: 0, waiting: new Map(), last: Promise.resolve()});
    worker.onmessage = ({data: {number, answer, failed}}) => {
      const {resolve, reject} = this.waiting.get(number);
      this.waiting.delete(number);
      failed === undefined ? resolve(answer) : reject(new Error(failed));
    };
    worker.onerror = event => this.fail(event.message || "its worker ended");
  }

  fail(reason) {
    for (const {reject} of this.waiting.values()) reject(new Error(reason));
    this.waiting.clear();
  }

  ask(task, given, moved = []) {
    return new Promise((resolve, reject) => {
      this.waiting.set(++this.number, {resolve, reject});
      this.worker.postMessage({number: this.number, task, ...given}, moved);
    });
  }

  // gray: Uint8Array. Gives mask, presence, confidence and milliseconds, one picture after another.
  segment(gray, height, width) {
    const picture = gray.slice();
    const next = this.last.then(() => this.ask("segment", {picture, height, width}, [picture.buffer]));
    this.last = next.catch(() => {});
    return next;
  }

  end() {
    this.worker.terminate();
    this.fail("ended");
  }
}

// report: is told what goes on. Gives an engine that has found the example's mask.
export async function startEngine(report) {
  const kinds = (await hasGpu()) ? ["gpu", "cpu"] : ["cpu"];
  const notes = [];
  for (const kind of kinds) {
    report(kind === "gpu" ? "Starting the graphics processor" : "Starting the student");
    const engine = await create(kind);
    try {
      await begin(engine, kind);
      await check(engine);
      engine.detail = [...notes, engine.detail].join(" ");
      return engine;
    } catch (error) {
      engine.end();
      notes.push(`${engine.name} was left out: ${error.message}.`);
    }
  }
  throw new Error(notes.join(" "));
}

async function hasGpu() {
  if (!navigator.gpu || typeof WebAssembly.Suspending !== "function") return false;
  const adapter = await navigator.gpu.requestAdapter().catch(() => null);
  // one in software is slower than WebAssembly
  return Boolean(adapter && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter));
}

function threadCount() {
  return globalThis.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1) : 1;
}

async function create(kind) {
  const code = new Blob([await unpackText("worker")], {type: "text/javascript"});
  const worker = new Worker(URL.createObjectURL(code));
  if (kind === "gpu") return new Engine(worker, "WebGPU", "The graphics processor computes.");
  const threads = threadCount();
  if (threads > 1) return new Engine(worker, `${threads} threads`, "WebAssembly computes with several threads.");
  const why = globalThis.crossOriginIsolated
    ? "This device has one processor core."
    : "The browser gives a page one thread, unless a server sends it with the headers COOP and COEP.";
  return new Engine(worker, "1 thread", `WebAssembly computes with one thread. ${why}`);
}

async function begin(engine, kind) {
  const [script, wasm, model] = await Promise.all([unpackText(`ort-${kind}`), unpack(`wasm-${kind}`), unpack("model")]);
  const given = {script, wasm, model, threads: threadCount(), provider: kind === "gpu" ? "webgpu" : "wasm"};
  await engine.ask("start", given, [wasm.buffer, model.buffer]);
}

async function check(engine) {
  const {height, width, runs} = settings.example;
  const found = await engine.segment(await unpack("example"), height, width);
  const score = dice(found.mask, fromRuns(runs, height * width));
  if (!(score >= LEAST_DICE)) throw new Error(`it finds another mask than Python (Dice ${score.toFixed(4)})`);
}
