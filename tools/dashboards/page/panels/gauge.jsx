import { getFieldDisplayValues } from '@grafana/data';

/** A gauge, drawn here since @grafana/ui does not export its own. */
export function GaugePanel({ panel, frames, width, height, theme, timeZone }) {
  const { options, fieldConfig } = panel;
  const values = getFieldDisplayValues({
    data: frames,
    fieldConfig,
    reduceOptions: options.reduceOptions,
    replaceVariables: (text) => text,
    theme,
    timeZone,
  });
  return (
    <div style={{ display: 'flex', height, position: 'relative', width }}>
      {values.map((value, at) => (
        <Arc
          key={at}
          value={value}
          width={width / values.length}
          height={height}
          theme={theme}
          isNamed={values.length > 1}
        />
      ))}
      <span style={{ bottom: 0, fontSize: 10, opacity: 0.6, position: 'absolute', right: 0 }}>
        not drawn by Grafana
      </span>
    </div>
  );
}

const START = -210;
const SWEEP = 240;

function Arc({ value: { display, field, name }, width, height, theme, isNamed }) {
  const radius = Math.max(10, Math.min(width / 2, height / 1.65) - 8);
  const middle = [width / 2, radius + 8];
  const { min = 0, max = 100, thresholds } = field;
  const share = (number) => Math.min(1, Math.max(0, (number - min) / (max - min)));
  const steps = thresholds?.steps ?? [];
  const shareOf = (at) => (steps[at] ? share(steps[at].value) : 1);
  return (
    <svg width={width} height={height}>
      <path
        d={arc(middle, radius - radius / 8, 0, 1)}
        {...stroke(theme.colors.background.secondary, radius / 4)}
      />
      {Number.isFinite(display.numeric) && (
        <path
          d={arc(middle, radius - radius / 8, 0, share(display.numeric))}
          {...stroke(display.color, radius / 4)}
        />
      )}
      {steps.map((step, at) => (
        <path
          key={at}
          d={arc(middle, radius + 2, at === 0 ? 0 : shareOf(at), shareOf(at + 1))}
          {...stroke(theme.visualization.getColorByName(step.color), 3)}
        />
      ))}
      <text
        x={middle[0]}
        y={middle[1] + radius / 8}
        textAnchor="middle"
        fontSize={radius / 2.6}
        fontWeight={500}
        fill={display.color}
      >
        {[display.prefix, display.text, display.suffix].join('')}
      </text>
      {isNamed && (
        <text
          x={middle[0]}
          y={height - 4}
          textAnchor="middle"
          fontSize={12}
          fill={theme.colors.text.primary}
        >
          {name}
        </text>
      )}
    </svg>
  );
}

const stroke = (color, width) => ({ fill: 'none', stroke: color, strokeWidth: width });

function arc([x, y], radius, from, to) {
  const at = (share) => {
    const angle = ((START + SWEEP * share) * Math.PI) / 180;
    return `${x + radius * Math.cos(angle)} ${y + radius * Math.sin(angle)}`;
  };
  return `M ${at(from)} A ${radius} ${radius} 0 ${SWEEP * (to - from) > 180 ? 1 : 0} 1 ${at(to)}`;
}
