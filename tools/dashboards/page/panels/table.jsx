import { TableNG } from '@grafana/ui/unstable';

/** Grafana's table panel. */
export function TablePanel({ panel, frames, width, height, timeRange }) {
  const { options, fieldConfig } = panel;
  return (
    <TableNG
      cellHeight={options.cellHeight}
      data={frames[options.frameIndex] ?? frames[0]}
      enableVirtualization={false}
      fieldConfig={fieldConfig}
      height={height}
      maxRowHeight={options.maxRowHeight}
      noHeader={!options.showHeader}
      noValue={fieldConfig.defaults.noValue}
      showTypeIcons={options.showTypeIcons}
      sortBy={options.sortBy}
      structureRev={1}
      timeRange={timeRange}
      width={width}
    />
  );
}
