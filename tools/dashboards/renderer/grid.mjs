// Grafana's grid: 24 columns, rows of 30 pixels, 8 pixels between.

const COLUMNS = 24;
const ROW = 30;
const GAP = 8;

/** Panels as they are seen: those of an open row beside the others, a closed row's not at all. */
export function visible(panels) {
  return panels.flatMap((panel) =>
    panel.type === 'row' && !panel.collapsed ? [panel, ...(panel.panels ?? [])] : [panel]
  );
}

/**
 * Give a panel's place in pixels.
 *
 * @param {{x: number, y: number, w: number, h: number}} grid
 * @param {number} width The whole grid's, in pixels.
 */
export function place({ x, y, w, h }, width) {
  const column = (width - GAP * (COLUMNS - 1)) / COLUMNS;
  return {
    left: Math.round(x * (column + GAP)),
    top: y * (ROW + GAP),
    width: Math.round(w * column + (w - 1) * GAP),
    height: h * ROW + (h - 1) * GAP,
  };
}
