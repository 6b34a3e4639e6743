import { FieldType } from '@grafana/data';
import { TimeSeries } from '@grafana/ui';

/** Grafana's time series panel, without tooltips, annotations and exemplars. */
export function TimeSeriesPanel({ panel, frames, width, height, timeRange, timeZone }) {
  const drawable = frames.map((frame) => ({
    ...frame,
    fields: frame.fields.map((field) =>
      field.type === FieldType.number
        ? { ...field, values: field.values.map((value) => (Number.isFinite(value) ? value : null)) }
        : field
    ),
  }));
  return (
    <TimeSeries
      frames={drawable}
      structureRev={1}
      timeRange={timeRange}
      timeZone={timeZone}
      width={width}
      height={height}
      legend={panel.options.legend}
      options={panel.options}
    />
  );
}
