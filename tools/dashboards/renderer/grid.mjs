// Grafana's grid: 24 columns, rows of 30 pixels, gaps of 8 pixels.

const COLUMNS = 24;
const ROW = 30;
const GAP = 8;

/** Return the visible panels: those of open rows too, but not those of closed rows. */
export function visible(panels) {
  return panels.flatMap((panel) =>
    panel.type === 'row' && !panel.collapsed ? [panel, ...(panel.panels ?? [])] : [panel]
  );
}

/**
 * Return the position of a panel in pixels.
 *
 * @param {{x: number, y: number, w: number, h: number}} grid
 * @param {number} width The width of the grid in pixels.
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
