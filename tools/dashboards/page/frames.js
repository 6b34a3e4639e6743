// Converts Prometheus's responses to data frames, like Grafana's Prometheus data source.

import { FieldType } from '@grafana/data';

/**
 * Return a panel's frames.
 *
 * @param {object[]} responses The result of `queryPanel` in renderer/queries.mjs.
 */
export function toFrames(responses) {
  const tables = responses.filter(({ format }) => format === 'table');
  return responses.flatMap((response) => {
    if (response.format === 'table') {
      return response.result.length > 0 ? [tableFrame(response, tables.length)] : [];
    }
    return response.format === 'heatmap'
      ? bucketFrames(response)
      : response.result.map((series) => seriesFrame(series, response));
  });
}

/** Parse a number of Prometheus, such as `+Inf`. */
const numberOf = (text) =>
  text === '+Inf' ? Infinity : text === '-Inf' ? -Infinity : Number(text);
const pointsOf = ({ value, values }) => values ?? [value];

function seriesFrame(series, { refId, step, legendFormat, isInstant, expression }) {
  const points = pointsOf(series);
  const labels = { ...series.metric };
  const name = legendOf(labels, legendFormat, expression);
  return frameOf(refId, name, [
    {
      name: 'Time',
      type: FieldType.time,
      // The line is interrupted between points further apart.
      config: isInstant ? {} : { interval: step * 1000 },
      values: points.map(([seconds]) => seconds * 1000),
    },
    {
      name: 'Value',
      type: FieldType.number,
      labels,
      config: name ? { displayNameFromDS: name } : {},
      values: points.map(([, text]) => numberOf(text)),
    },
  ]);
}

function legendOf(labels, format, expression) {
  if (format === '__auto') {
    return Object.keys(labels).length > 0 ? '' : expression;
  }
  if (format !== '') {
    return format.replace(/\{\{\s*(.+?)\s*\}\}/g, (_, label) => labels[label] ?? '');
  }
  const { __name__: metric = '', ...others } = labels;
  const pairs = Object.entries(others).map(([label, value]) => `${label}="${value}"`);
  return pairs.length > 0 ? `${metric}{${pairs.join(', ')}}` : metric || expression;
}

function tableFrame({ refId, result }, tables) {
  const names = [];
  for (const { metric } of result) {
    names.push(
      ...Object.keys(metric)
        .sort()
        .filter((name) => !names.includes(name))
    );
  }
  const rows = result.flatMap((series) =>
    pointsOf(series).map(([seconds, text]) => ({ ...series, seconds, text }))
  );
  const value = tables > 1 ? `Value #${refId}` : 'Value';
  return frameOf(refId, undefined, [
    {
      name: 'Time',
      type: FieldType.time,
      config: {},
      values: rows.map(({ seconds }) => seconds * 1000),
    },
    ...names.map((name) => ({
      name,
      type: name === 'le' ? FieldType.number : FieldType.string,
      config: { filterable: true },
      values: rows.map(({ metric }) =>
        name === 'le' ? numberOf(metric.le) : (metric[name] ?? '')
      ),
    })),
    {
      name: value,
      type: FieldType.number,
      config: { displayNameFromDS: value },
      values: rows.map(({ text }) => numberOf(text)),
    },
  ]);
}

/** Convert cumulative buckets to a frame with a field for the count of each bucket. */
function bucketFrames({ refId, result }) {
  const sorted = result
    .map((series) => ({ ...series, le: numberOf(series.metric.le) }))
    .sort((a, b) => a.le - b.le);
  if (sorted.length === 0) {
    return [];
  }
  const times = [
    ...new Set(sorted.flatMap((series) => pointsOf(series).map(([seconds]) => seconds))),
  ].sort((a, b) => a - b);
  let below = times.map(() => 0);
  const fields = sorted.map((series) => {
    const counts = new Map(pointsOf(series).map(([seconds, text]) => [seconds, numberOf(text)]));
    const upTo = times.map((seconds, at) => counts.get(seconds) ?? below[at]);
    const values = upTo.map((count, at) => Math.max(0, count - below[at]));
    below = upTo;
    return {
      name: series.metric.le,
      type: FieldType.number,
      labels: series.metric,
      config: {},
      values,
    };
  });
  return [
    frameOf(refId, undefined, [
      {
        name: 'Time',
        type: FieldType.time,
        config: {},
        values: times.map((seconds) => seconds * 1000),
      },
      ...fields,
    ]),
  ];
}

const frameOf = (refId, name, fields) => ({ refId, name, fields, length: fields[0].values.length });
