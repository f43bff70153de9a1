// Which pixels a pen covers: the same rule as alnb/data/raster.py, so that what is seen while
// drawing is exactly what the kernel will store. Points are [row, col] in slice pixels; the centre
// of pixel (r, c) lies at (r + 0.5, c + 0.5).

const IGNORE = 255;

/** Call hit(index) for each pixel whose centre lies within `radius` of the segment a-b. */
function stampSegment(height, width, a, b, radius, hit) {
  const top = Math.max(0, Math.floor(Math.min(a[0], b[0]) - radius - 0.5));
  const bottom = Math.min(height, Math.ceil(Math.max(a[0], b[0]) + radius + 0.5));
  const left = Math.max(0, Math.floor(Math.min(a[1], b[1]) - radius - 0.5));
  const right = Math.min(width, Math.ceil(Math.max(a[1], b[1]) + radius + 0.5));
  const alongR = b[0] - a[0];
  const alongC = b[1] - a[1];
  const length2 = alongR * alongR + alongC * alongC || 1;
  for (let row = top; row < bottom; row++) {
    const awayR = row + 0.5 - a[0];
    for (let col = left; col < right; col++) {
      const awayC = col + 0.5 - a[1];
      const place = Math.min(1, Math.max(0, (awayR * alongR + awayC * alongC) / length2));
      const gapR = awayR - place * alongR;
      const gapC = awayC - place * alongC;
      if (gapR * gapR + gapC * gapC <= radius * radius) hit(row * width + col);
    }
  }
}

/** Call hit(index) for each pixel whose centre lies in the closed polygon, by the even-odd rule. */
function fillPolygon(height, width, points, hit) {
  for (let row = 0; row < height; row++) {
    const y = row + 0.5;
    const crossings = [];
    points.forEach((a, i) => {
      const b = points[(i + 1) % points.length];
      if (Math.min(a[0], b[0]) <= y && y < Math.max(a[0], b[0]))
        crossings.push(a[1] + ((y - a[0]) * (b[1] - a[1])) / (b[0] - a[0]));
    });
    crossings.sort((p, q) => p - q);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const first = Math.max(0, Math.ceil(crossings[i] - 0.5));
      for (let col = first; col < width && col + 0.5 < crossings[i + 1]; col++)
        hit(row * width + col);
    }
  }
}

/** Call hit(index) for each pixel that a whole stroke covers. */
function coverStroke(height, width, stroke, hit) {
  const { points, radius, tool } = stroke;
  if (tool === "lasso") return fillPolygon(height, width, points, hit);
  if (points.length === 1) return stampSegment(height, width, points[0], points[0], radius, hit);
  for (let i = 1; i < points.length; i++)
    stampSegment(height, width, points[i - 1], points[i], radius, hit);
}

/** The box [row, col, height, width] a brush segment can touch, within the slice. */
function segmentBox(height, width, a, b, radius) {
  const top = Math.max(0, Math.floor(Math.min(a[0], b[0]) - radius - 1));
  const left = Math.max(0, Math.floor(Math.min(a[1], b[1]) - radius - 1));
  const bottom = Math.min(height, Math.ceil(Math.max(a[0], b[0]) + radius + 1));
  const right = Math.min(width, Math.ceil(Math.max(a[1], b[1]) + radius + 1));
  return [top, left, Math.max(0, bottom - top), Math.max(0, right - left)];
}
