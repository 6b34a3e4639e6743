// The dashboard: title, variables, time range and panels.

import { rangeUtil } from '@grafana/data';
import { Icon, PanelChrome } from '@grafana/ui';
import { place } from '../renderer/grid.mjs';
import { BarGaugePanel } from './panels/bargauge.jsx';
import { GaugePanel } from './panels/gauge.jsx';
import { HeatmapPanel } from './panels/heatmap.jsx';
import { Message } from './panels/message.jsx';
import { StatPanel } from './panels/stat.jsx';
import { TablePanel } from './panels/table.jsx';
import { TextPanel } from './panels/text.jsx';
import { TimeSeriesPanel } from './panels/timeseries.jsx';

const PANELS = {
  bargauge: BarGaugePanel,
  gauge: GaugePanel,
  heatmap: HeatmapPanel,
  stat: StatPanel,
  table: TablePanel,
  text: TextPanel,
  timeseries: TimeSeriesPanel,
};
// These show a missing value themselves.
const SHOWS_NOTHING_ITSELF = new Set(['bargauge', 'gauge', 'stat', 'text']);
const MARGIN = 16;

export function Dashboard({ dashboard, drawn, timeRange, timeZone, theme, width, variables }) {
  const inner = width - 2 * MARGIN;
  const places = drawn.map(({ panel }) => place(panel.gridPos, inner));
  const height = Math.max(0, ...places.map(({ top, height: own }) => top + own));
  return (
    <div
      style={{
        background: theme.colors.background.canvas,
        color: theme.colors.text.primary,
        padding: MARGIN,
      }}
    >
      <Header {...{ dashboard, variables, timeRange, timeZone, theme }} />
      <div style={{ position: 'relative', height }}>
        {drawn.map((item, at) => (
          <div key={item.panel.id} style={{ position: 'absolute', ...places[at] }}>
            {item.panel.type === 'row' ? (
              <RowHeading panel={item.panel} theme={theme} />
            ) : (
              <OnePanel
                {...item}
                {...{ timeRange, timeZone, theme }}
                width={places[at].width}
                height={places[at].height}
              />
            )}
          </div>
        ))}
      </div>
    </div>
  );
}

function OnePanel({ panel, frames, errors, width, height, ...shared }) {
  const Body = PANELS[panel.type];
  const isEmpty = frames.every((frame) => frame.length === 0);
  const draw = (innerWidth, innerHeight) => {
    if (errors.length > 0) {
      return (
        <Message
          width={innerWidth}
          height={innerHeight}
          text={errors[0].error}
          theme={shared.theme}
          isError
        />
      );
    }
    if (Body === undefined) {
      return (
        <Message
          width={innerWidth}
          height={innerHeight}
          text={`a panel of type ${panel.type} is not drawn`}
          theme={shared.theme}
        />
      );
    }
    if (isEmpty && !SHOWS_NOTHING_ITSELF.has(panel.type)) {
      const text = panel.fieldConfig.defaults.noValue ?? 'No data';
      return <Message width={innerWidth} height={innerHeight} text={text} theme={shared.theme} />;
    }
    return (
      <Body panel={panel} frames={frames} width={innerWidth} height={innerHeight} {...shared} />
    );
  };
  return (
    <PanelChrome
      title={panel.title}
      description={panel.description}
      width={width}
      height={height}
      displayMode={panel.transparent ? 'transparent' : 'default'}
      statusMessage={errors[0]?.error}
    >
      {draw}
    </PanelChrome>
  );
}

function RowHeading({ panel, theme }) {
  const count = panel.panels?.length ?? 0;
  return (
    <div
      style={{
        display: 'flex',
        alignItems: 'center',
        gap: 8,
        height: 30,
        fontSize: 18,
        fontWeight: 500,
      }}
    >
      <Icon name={panel.collapsed ? 'angle-right' : 'angle-down'} />
      <span>{panel.title}</span>
      {panel.collapsed && (
        <span
          style={{
            color: theme.colors.text.secondary,
            fontSize: 12,
            fontStyle: 'italic',
            fontWeight: 400,
          }}
        >
          ({count} {count === 1 ? 'panel' : 'panels'})
        </span>
      )}
    </div>
  );
}

function Header({ dashboard, variables, timeRange, timeZone, theme }) {
  const box = {
    border: `1px solid ${theme.components.input.borderColor}`,
    borderRadius: theme.shape.radius.default,
    display: 'inline-flex',
    alignItems: 'center',
    fontSize: 12,
    height: 32,
    overflow: 'hidden',
  };
  const cell = { padding: '0 8px', lineHeight: '32px', whiteSpace: 'nowrap' };
  const label = { ...cell, background: theme.colors.background.secondary, fontWeight: 500 };
  const value = { ...cell, background: theme.components.input.background };
  return (
    <div style={{ marginBottom: 16 }}>
      <div
        style={{
          display: 'flex',
          justifyContent: 'space-between',
          alignItems: 'center',
          marginBottom: 12,
        }}
      >
        <span style={{ fontSize: 20, fontWeight: 500 }}>{dashboard.title}</span>
        <span style={{ ...box, ...value, gap: 6 }}>
          <Icon name="clock-nine" size="sm" />
          {rangeUtil.describeTimeRange(timeRange.raw, timeZone)}
        </span>
      </div>
      <div style={{ display: 'flex', flexWrap: 'wrap', gap: 8 }}>
        {variables.map((variable) => (
          <span key={variable.name} style={box}>
            <span style={label}>{variable.label}</span>
            <span style={value}>{variable.text}</span>
          </span>
        ))}
        <span style={{ flexGrow: 1 }} />
        {(dashboard.links ?? []).map((link) => (
          <span key={link.title} style={{ ...box, ...value, gap: 6 }}>
            <Icon name={link.type === 'dashboards' ? 'apps' : 'external-link-alt'} size="sm" />
            {link.title}
          </span>
        ))}
      </div>
    </div>
  );
}
