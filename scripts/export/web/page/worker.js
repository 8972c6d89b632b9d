// Runs the student beside the page, so that the page stays responsive. It is no module, since a page that was opened
// from a file may start no module here.
"use strict";

let ort = null, session = null;

const tasks = {
  async start({script, wasm, model, threads, provider}) {
    ort = await import(URL.createObjectURL(new Blob([script], {type: "text/javascript"})));
    ort.env.logLevel = "error";
    ort.env.wasm.wasmBinary = wasm;
    ort.env.wasm.numThreads = threads;
    const options = {executionProviders: provider === "wasm" ? ["wasm"] : [provider, "wasm"], logSeverityLevel: 3};
    session = await ort.InferenceSession.create(model, options);
    return {};
  },

  // picture: gray, height * width bytes
  async segment({picture, height, width}) {
    const start = performance.now();
    const found = await session.run({picture: new ort.Tensor("uint8", picture, [height, width])});
    const mask = (await found.mask.getData()).slice(), probability = await found.probability.getData();
    const presence = found.presence ? (await found.presence.getData())[0] : null;
    const channels = found.probability.dims[0];
    const result = {mask, presence, confidence: confidences(mask, probability, channels)};
    result.milliseconds = performance.now() - start;
    Object.values(found).forEach(tensor => tensor.dispose());
    return result;
  },
};

// Of each class, the mean of its probability in its mask; null where the mask has none of it.
function confidences(mask, probability, channels) {
  const classes = Math.max(channels, 2), size = mask.length;
  const sums = new Float64Array(classes), counts = new Uint32Array(classes);
  for (let i = 0; i < size; i++) {
    const value = mask[i];
    if (!value) continue;
    sums[value] += probability[channels === 1 ? i : value * size + i];
    counts[value] += 1;
  }
  return Array.from(sums.subarray(1), (sum, i) => counts[i + 1] ? sum / counts[i + 1] : null);
}

onmessage = async ({data: {number, task, ...given}}) => {
  try {
    const answer = await tasks[task](given);
    postMessage({number, answer}, answer.mask ? [answer.mask.buffer] : []);
  } catch (error) {
    postMessage({number, failed: String(error?.message ?? error)});
  }
};
