// The files that are open, and what the student finds in them; each frame is segmented once.

import {toRuns} from "./masks.js";

const MOST_UNDO = 50;

export class Session {
  constructor() {
    Object.assign(this, {studies: [], engine: null, times: []});
  }

  // The result of a frame, segmented now unless it is there: {runs, first, presence, confidence, corrected, undo}.
  async ensure(study, index, frame = null) {
    if (study.results.has(index)) return study.results.get(index);
    const {waiting} = study;
    if (!waiting.has(index)) {
      waiting.set(index, this.segment(study, index, frame).finally(() => waiting.delete(index)));
    }
    return waiting.get(index);
  }

  async segment(study, index, frame) {
    const engine = await this.engine, {gray} = frame ?? await study.frame(index);
    const {mask, presence, confidence, milliseconds} = await engine.segment(gray, study.height, study.width);
    const runs = toRuns(mask);
    const result = {runs, first: runs, presence, confidence, milliseconds, corrected: false, undo: []};
    this.times.push(milliseconds);
    study.results.set(index, result);
    return result;
  }

  // Milliseconds a frame: the median of the last ones.
  pace() {
    const times = this.times.slice(-15).sort((a, b) => a - b);
    return times.length ? times[times.length >> 1] : null;
  }

  // The next still without a result.
  unfinished() {
    return this.studies.find(study => study.count === 1 && !study.results.has(0) && !study.failed);
  }
}

export function keepStroke(result, before, mask) {
  result.undo.push(toRuns(before));
  if (result.undo.length > MOST_UNDO) result.undo.shift();
  setRuns(result, toRuns(mask));
}

// Goes back to the mask before the last stroke; false where there is none.
export function undo(result) {
  if (!result.undo.length) return false;
  setRuns(result, result.undo.pop());
  return true;
}

export function restore(result) {
  result.undo.push(result.runs);
  setRuns(result, result.first);
  return true;
}

function setRuns(result, runs) {
  const same = runs.length === result.first.length && runs.every((value, i) => value === result.first[i]);
  Object.assign(result, {runs, corrected: !same});
}
