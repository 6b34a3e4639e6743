import { getDisplayValueAlignmentFactors, getFieldDisplayValues } from '@grafana/data';
import { BarGauge, VizRepeater } from '@grafana/ui';

/** Grafana's bar gauge panel. */
export function BarGaugePanel({ panel, frames, width, height, theme, timeZone }) {
  const { options, fieldConfig } = panel;
  const isManual = options.sizing === 'manual';
  const getValues = () =>
    getFieldDisplayValues({
      data: frames,
      fieldConfig,
      reduceOptions: options.reduceOptions,
      replaceVariables: (text) => text,
      theme,
      timeZone,
    });
  return (
    <VizRepeater
      getValues={getValues}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      height={height}
      itemSpacing={options.displayMode === 'lcd' ? 2 : 10}
      maxVizHeight={isManual ? options.maxVizHeight : 300}
      minVizHeight={isManual ? options.minVizHeight : 16}
      minVizWidth={isManual ? options.minVizWidth : 8}
      orientation={options.orientation}
      renderCounter={0}
      renderValue={({ value, alignmentFactors, orientation, ...size }) => (
        <BarGauge
          height={size.height}
          width={size.width}
          alignmentFactors={alignmentFactors}
          display={value.view?.getFieldDisplayProcessor(value.colIndex)}
          displayMode={options.displayMode}
          field={value.field}
          namePlacement={options.namePlacement}
          orientation={orientation}
          showUnfilled={options.showUnfilled}
          text={options.text}
          theme={theme}
          value={value.display}
          valueDisplayMode={options.valueMode}
        />
      )}
      source={frames}
      width={width}
    />
  );
}
