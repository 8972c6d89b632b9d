// Keys of the page. Those of the picture itself, with a tool, are in stage.js.

const KEYS = {
  v: "move", b: "brush", e: "erase", r: "ruler", o: "outline", "[": "brush-smaller", "]": "brush-larger",
  "+": "zoom-in", "=": "zoom-in", "-": "zoom-out", 0: "fit", ArrowLeft: "frame-before", ArrowRight: "frame-after",
  ArrowUp: "file-before", ArrowDown: "file-after", PageUp: "file-before", PageDown: "file-after",
  a: "add", s: "save-mask", p: "save-overlay", j: "save-json", "?": "help", z: "undo",
};

export function listenToKeys(actions) {
  addEventListener("keydown", event => {
    const {target, key} = event, modified = event.ctrlKey || event.metaKey;
    if (document.querySelector("dialog[open]") || event.altKey || (modified && key !== "z")) return;
    if (target.matches?.("input:not([type=range]), textarea, select")) return;
    if (target.matches?.("input") && key.startsWith("Arrow")) return;
    const name = KEYS[key.length === 1 ? key.toLowerCase() : key];
    if (!name) return;
    event.preventDefault();
    actions[name]();
  });
}
