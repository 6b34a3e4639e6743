import { getDisplayValueAlignmentFactors, getFieldDisplayValues } from '@grafana/data';
import { BigValue, VizRepeater } from '@grafana/ui';

/** Grafana's stat panel: a BigValue for each series. */
export function StatPanel({ panel, frames, width, height, theme, timeRange, timeZone }) {
  const { options, fieldConfig } = panel;
  const getValues = () => {
    const values = getFieldDisplayValues({
      data: frames,
      fieldConfig,
      reduceOptions: options.reduceOptions,
      replaceVariables: (text) => text,
      sparkline: options.graphMode !== 'none',
      percentChange: options.showPercentChange,
      theme,
      timeZone,
    });
    for (const { sparkline } of values) {
      if (sparkline) {
        sparkline.timeRange = timeRange;
      }
    }
    return values;
  };
  const isNamed =
    options.textMode === 'auto' && fieldConfig.defaults.displayName && frames.length > 1;
  return (
    <VizRepeater
      autoGrid
      getValues={getValues}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      height={height}
      itemSpacing={3}
      orientation={options.orientation}
      renderCounter={0}
      renderValue={({ value, alignmentFactors, count, ...size }) => (
        <BigValue
          {...size}
          alignmentFactors={alignmentFactors}
          colorMode={options.colorMode}
          count={count}
          disableWideLayout={!options.wideLayout}
          graphMode={options.graphMode}
          justifyMode={options.justifyMode}
          percentChangeColorMode={options.percentChangeColorMode}
          sparkline={value.sparkline}
          text={options.text}
          textMode={isNamed ? 'value_and_name' : options.textMode}
          theme={theme}
          value={value.display}
        />
      )}
      source={frames}
      width={width}
    />
  );
}
