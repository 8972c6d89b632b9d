// Masks: class indices, one byte a pixel, row by row. Kept as run lengths: value, count, value, count, ...

export function toRuns(mask) {
  const runs = [];
  for (let start = 0, i = 1; i <= mask.length; i++) {
    if (i < mask.length && mask[i] === mask[start]) continue;
    runs.push(mask[start], i - start);
    start = i;
  }
  return runs;
}

export function fromRuns(runs, size) {
  const mask = new Uint8Array(size);
  for (let i = 0, start = 0; i < runs.length; i += 2) {
    mask.fill(runs[i], start, start + runs[i + 1]);
    start += runs[i + 1];
  }
  return mask;
}

// Of all foreground; 1 where both are empty.
export function dice(first, second) {
  let both = 0, sum = 0;
  for (let i = 0; i < first.length; i++) {
    sum += (first[i] > 0) + (second[i] > 0);
    both += first[i] > 0 && first[i] === second[i];
  }
  return sum ? 2 * both / sum : 1;
}

// Sets a value within a radius of the line from (x0, y0) to (x1, y1), in pixels. Erasing a class leaves the others.
export function paintLine(mask, width, height, from, to, radius, value, only = null) {
  const [x0, y0] = from, [x1, y1] = to, dx = x1 - x0, dy = y1 - y0, length = dx * dx + dy * dy;
  const left = Math.max(0, Math.floor(Math.min(x0, x1) - radius));
  const top = Math.max(0, Math.floor(Math.min(y0, y1) - radius));
  const right = Math.min(width - 1, Math.ceil(Math.max(x0, x1) + radius));
  const bottom = Math.min(height - 1, Math.ceil(Math.max(y0, y1) + radius));
  for (let y = top; y <= bottom; y++) {
    for (let x = left; x <= right; x++) {
      const px = x + 0.5 - x0, py = y + 0.5 - y0;
      const t = length ? Math.max(0, Math.min(1, (px * dx + py * dy) / length)) : 0;
      const distance = (px - t * dx) ** 2 + (py - t * dy) ** 2, i = y * width + x;
      if (distance <= radius * radius && (only === null || mask[i] === only)) mask[i] = value;
    }
  }
}

// The borders of a class as closed lines through the middles of the pixels' edges: arrays x, y, x, y, ...
export function outlines(mask, width, height, value) {
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && mask[y * width + x] === value;
  const DX = [1, 0, -1, 0], DY = [0, 1, 0, -1]; // along the top, right, bottom and left edge, clockwise
  const EX = [0.5, 1, 0.5, 0], EY = [0, 0.5, 1, 0.5]; // the middle of these edges
  const seen = new Uint8Array(mask.length), lines = [];
  for (let i = 0; i < mask.length; i++) {
    if (mask[i] !== value || seen[i] || (i >= width && mask[i - width] === value)) continue;
    let x = i % width, y = (i - x) / width, side = 0;
    const line = [];
    do {
      if (side === 0) seen[y * width + x] = 1;
      line.push(x + EX[side], y + EY[side]);
      const out = (side + 3) % 4, ax = x + DX[side], ay = y + DY[side];
      if (inside(ax + DX[out], ay + DY[out])) [x, y, side] = [ax + DX[out], ay + DY[out], out];
      else if (inside(ax, ay)) [x, y] = [ax, ay];
      else side = (side + 1) % 4;
    } while (side !== 0 || y * width + x !== i);
    lines.push(line);
  }
  return lines;
}
