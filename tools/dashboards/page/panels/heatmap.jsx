import { getValueFormat, formattedValueToString } from '@grafana/data';
import { UPlotChart, UPlotConfigBuilder } from '@grafana/ui';
import * as chromatic from 'd3-scale-chromatic';
import { useMemo } from 'react';

const LEGEND_HEIGHT = 36;
// Schemes from dark to light, which Grafana reverses in the light theme only.
const DARK_FIRST = /^(Turbo|Cividis|Viridis|Magma|Inferno|Plasma|Warm|Cool|Cubehelix)/;
const TURNED_ALWAYS = /^(BrBG|PiYG|PRGn|PuOr|RdBu|RdGy|RdYlBu|RdYlGn|Spectral|Rainbow|Sinebow)$/;

/**
 * A heat map of buckets over time. @grafana/ui has only the axes; the cells are drawn here, and the
 * picture says so.
 */
export function HeatmapPanel({ panel, frames, width, height, theme, timeRange, timeZone }) {
  const { options, fieldConfig } = panel;
  const [time, ...buckets] = frames[0].fields;
  const rows = buckets.map(({ values }) => values);
  const most = options.color.max ?? Math.max(0, ...rows.flat().filter(Number.isFinite));
  const least = options.filterValues?.le ?? 1e-9;
  const colors = useMemo(() => paletteOf(options.color, theme), [options, theme]);
  const unit = options.yAxis?.unit ?? fieldConfig.defaults.unit;
  const config = useMemo(() => {
    const builder = new UPlotConfigBuilder(timeZone);
    builder.addScale({
      scaleKey: 'x',
      isTime: true,
      orientation: 0,
      direction: 1,
      range: () => [timeRange.from.valueOf(), timeRange.to.valueOf()],
    });
    builder.addScale({
      scaleKey: 'y',
      orientation: 1,
      direction: 1,
      range: () => [0, rows.length],
    });
    builder.addAxis({
      scaleKey: 'x',
      placement: 'bottom',
      isTime: true,
      timeZone,
      theme,
      grid: { show: false },
    });
    const labels = buckets.map(({ name }) => boundOf(name, unit));
    builder.addAxis({
      scaleKey: 'y',
      placement: 'left',
      theme,
      grid: { show: false },
      splits: (plot) => thinned(rows.length, plot.bbox.height / devicePixelRatio),
      values: (_plot, splits) => splits.map((split) => labels[split - 1] ?? ''),
    });
    builder.addSeries({
      facets: undefined,
      pathBuilder: () => null,
      pxAlign: 0,
      scaleKey: 'y',
      theme,
      show: true,
    });
    builder.addHook('drawClear', (plot) =>
      drawCells(plot, { times: time.values, rows, most, least, colors })
    );
    return builder;
  }, [frames, theme]);
  const data = [time.values, time.values.map(() => null)];
  return (
    <div style={{ height, position: 'relative', width }}>
      <UPlotChart config={config} data={data} width={width} height={height - LEGEND_HEIGHT} />
      <ColorScale {...{ colors, most, theme, panel }} />
    </div>
  );
}

function drawCells(plot, { times, rows, most, least, colors }) {
  const { ctx } = plot;
  const step = times.length > 1 ? times[1] - times[0] : 60_000;
  const gap = devicePixelRatio;
  rows.forEach((values, row) => {
    const top = plot.valToPos(row + 1, 'y', true);
    const height = plot.valToPos(row, 'y', true) - top;
    values.forEach((value, at) => {
      if (!(value > least)) {
        return;
      }
      // The count of a bucket belongs to the step that ends at its time.
      const left = Math.max(plot.bbox.left, plot.valToPos(times[at] - step, 'x', true));
      const right = plot.valToPos(times[at], 'x', true);
      ctx.fillStyle =
        colors[Math.min(colors.length - 1, Math.floor((value / most) * colors.length))];
      ctx.fillRect(left, top, Math.max(1, right - left - gap), Math.max(1, height - gap));
    });
  });
}

function paletteOf({ scheme, steps, mode, fill, reverse }, theme) {
  const count = Math.max(2, steps);
  const shares = Array.from({ length: count }, (_, at) => at / (count - 1));
  if (mode === 'opacity') {
    const color = theme.visualization.getColorByName(fill);
    return shares.map((share) => `color-mix(in srgb, ${color} ${5 + 95 * share}%, transparent)`);
  }
  const interpolate = chromatic[`interpolate${scheme}`] ?? chromatic.interpolateOranges;
  const isTurned =
    TURNED_ALWAYS.test(scheme) || (DARK_FIRST.test(scheme) ? theme.isLight : theme.isDark);
  return shares.map((share) => interpolate(isTurned !== Boolean(reverse) ? 1 - share : share));
}

function boundOf(name, unit) {
  const bound = name === '+Inf' ? Infinity : Number(name);
  return Number.isFinite(bound) ? formattedValueToString(getValueFormat(unit)(bound)) : name;
}

/** Drop labels until each has 18 pixels. */
function thinned(count, height) {
  const every = Math.max(1, Math.ceil(count / Math.max(1, Math.floor(height / 18))));
  return Array.from({ length: Math.floor(count / every) }, (_, at) => (at + 1) * every);
}

function ColorScale({ colors, most, theme, panel }) {
  const text = (value) =>
    formattedValueToString(getValueFormat(panel.options.cellValues?.unit ?? 'short')(value, 0));
  const style = { color: theme.colors.text.secondary, fontSize: 12 };
  return (
    <div
      style={{
        ...style,
        alignItems: 'center',
        bottom: 0,
        display: 'flex',
        gap: 8,
        height: LEGEND_HEIGHT,
        padding: '0 8px',
        position: 'absolute',
        width: '100%',
      }}
    >
      <span>{text(0)}</span>
      <div
        style={{
          background: `linear-gradient(90deg, ${colors.join(', ')})`,
          height: 8,
          width: '30%',
        }}
      />
      <span>{text(most)}</span>
      <span style={{ flexGrow: 1 }} />
      <span style={{ fontSize: 10, opacity: 0.8 }}>cells not drawn by Grafana</span>
    </div>
  );
}
