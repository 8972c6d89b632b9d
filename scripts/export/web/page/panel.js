// The panel beside the picture: what was found, how large it is, and how sure the student is.

import {about, classNames, settings} from "./data.js";
import {byId, make, number} from "./dom.js";
import {isAbsent, measure, pixelSize} from "./measure.js";

export function showFindings(study, result, mask) {
  const list = byId("findings");
  if (!result) return void list.replaceChildren(make("p", {className: "soft"}, "Not segmented yet."));
  const rows = measure(mask, study, result);
  list.replaceChildren(...rows.map((row, i) => finding(row, settings.colors[i], result)));
}

function finding(row, color, result) {
  const swatch = make("i", {className: "swatch"});
  swatch.style.background = color;
  const head = make("h3", {}, swatch, capital(row.class));
  const none = make("p", {className: "none"}, "Not found");
  if (!row.area_px) return make("div", {className: "finding"}, head, none, ...why(result));
  const known = row.area_mm2 !== null;
  const [value, unit] = known ? [number(row.area_mm2), "mm²"] : [number(row.area_px, 6), "px"];
  const facts = known ? [`${number(row.area_px, 6)} px`] : [];
  if (row.confidence !== null) facts.push(`confidence ${row.confidence.toFixed(2)}`);
  if (result.corrected) facts.push("corrected by you");
  const large = make("p", {className: "value"}, value, make("span", {}, ` ${unit}`));
  const parts = [head, large, make("p", {className: "soft"}, facts.join(" · "))];
  if (row.look) parts.push(make("p", {className: "look"}, "The student is not sure. Please look at this outline."));
  return make("div", {className: "finding"}, ...parts);
}

function why(result) {
  if (!isAbsent(result.presence) || result.corrected) return [];
  const threshold = about.thresholds.presence.toFixed(2);
  const text = `presence ${result.presence.toFixed(2)}, below the threshold of ${threshold}`;
  return [make("p", {className: "soft"}, text)];
}

export function showPixelSize(study, line) {
  const size = pixelSize(study);
  const source = study.drawn ? "drawn by you" : "from the file";
  const unknown = study.scales ? "Differs within the picture." : "Not known. Draw a known length for mm².";
  byId("pixel-size").textContent = size ? `${number(size[0])} × ${number(size[1])} mm, ${source}` : unknown;
  byId("line-length").hidden = !line;
  byId("calibrate").hidden = !line;
  if (line) byId("line-length").textContent = `Line: ${lineLength(line, size)}`;
}

function lineLength([[x0, y0], [x1, y1]], size) {
  if (!size) return `${number(Math.hypot(x1 - x0, y1 - y0))} px`;
  return `${number(Math.hypot((x1 - x0) * size[0], (y1 - y0) * size[1]))} mm`;
}

// One button for each class, where there are several.
export function showClasses(choose) {
  const box = byId("classes");
  box.hidden = classNames.length < 2;
  classNames.forEach((name, i) => {
    const input = make("input", {type: "radio", name: "class", value: i + 1, checked: i === 0});
    input.addEventListener("change", () => choose(i + 1));
    const swatch = make("i", {className: "swatch"});
    swatch.style.background = settings.colors[i];
    box.append(make("label", {}, input, swatch, capital(name)));
  });
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
