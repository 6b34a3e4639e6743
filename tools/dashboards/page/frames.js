// Prometheus's answers as Grafana's data frames, as its Prometheus data source makes them.

import { FieldType } from '@grafana/data';

/**
 * Give a panel's frames.
 *
 * @param {object[]} answers What renderer/queries.mjs's `askPanel` gave.
 */
export function toFrames(answers) {
  const tables = answers.filter(({ format }) => format === 'table');
  return answers.flatMap((answer) => {
    if (answer.format === 'table') {
      return answer.result.length > 0 ? [tableFrame(answer, tables.length)] : [];
    }
    return answer.format === 'heatmap'
      ? bucketFrames(answer)
      : answer.result.map((series) => seriesFrame(series, answer));
  });
}

/** Prometheus writes numbers as strings, `+Inf` and `NaN` among them. */
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
      // The graph breaks its line where points are further apart than this.
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

/** Cumulative buckets as one frame, with a field for each bucket's own count. */
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
