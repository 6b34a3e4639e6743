// Applies defaults, overrides and transformations to a panel, like the Grafana application, with
// the functions of @grafana/data.

import {
  FieldConfigOptionsRegistry,
  applyFieldOverrides,
  booleanOverrideProcessor,
  cacheFieldDisplayNames,
  dataLinksOverrideProcessor,
  displayNameOverrideProcessor,
  identityOverrideProcessor,
  numberOverrideProcessor,
  standardTransformers,
  standardTransformersRegistry,
  stringOverrideProcessor,
  thresholdsOverrideProcessor,
  transformDataFrame,
  unitOverrideProcessor,
  valueMappingsOverrideProcessor,
} from '@grafana/data';
import { defaultOptions as barGauge } from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import { defaultOptions as gauge } from '@grafana/schema/dist/esm/raw/composable/gauge/panelcfg/x/GaugePanelCfg_types.gen';
import { defaultOptions as heatmap } from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import { defaultOptions as stat } from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import { defaultOptions as table } from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import { defaultsDeep } from 'lodash';
import { lastValueFrom } from 'rxjs';

const REDUCE = {
  reduceOptions: { values: false, calcs: ['lastNotNull'], fields: '' },
  orientation: 'auto',
};
const LEGEND = {
  legend: { displayMode: 'list', placement: 'bottom', showLegend: true, calcs: [] },
};
const OPTIONS = {
  bargauge: { ...barGauge, ...REDUCE },
  gauge: { ...gauge, ...REDUCE },
  heatmap,
  stat: { ...stat, ...REDUCE },
  table,
  text: { mode: 'markdown', content: '' },
  timeseries: LEGEND,
};

const STEPS = [
  { value: -Infinity, color: 'green' },
  { value: 80, color: 'red' },
];
const THRESHOLDS = { thresholds: { mode: 'absolute', steps: STEPS }, mappings: [] };
const BY_VALUE = { ...THRESHOLDS, color: { mode: 'thresholds' } };
const LINES = {
  axisBorderShow: false,
  axisCenteredZero: false,
  axisColorMode: 'text',
  axisPlacement: 'auto',
  barAlignment: 0,
  barWidthFactor: 0.6,
  drawStyle: 'line',
  fillOpacity: 0,
  gradientMode: 'none',
  hideFrom: { legend: false, tooltip: false, viz: false },
  insertNulls: false,
  lineInterpolation: 'linear',
  lineStyle: { fill: 'solid' },
  lineWidth: 1,
  pointSize: 5,
  scaleDistribution: { type: 'linear' },
  showPoints: 'auto',
  showValues: false,
  spanNulls: false,
  stacking: { mode: 'none', group: 'A' },
  thresholdsStyle: { mode: 'off' },
};
const CELLS = { align: 'auto', cellOptions: { type: 'auto' }, inspect: false };
const FIELDS = {
  bargauge: BY_VALUE,
  gauge: BY_VALUE,
  heatmap: {},
  stat: BY_VALUE,
  table: { ...BY_VALUE, custom: CELLS },
  text: {},
  timeseries: { ...THRESHOLDS, color: { mode: 'palette-classic' }, custom: LINES },
};

export const known = (type) => type in OPTIONS;

/** Return the panel with Grafana's defaults. */
export function completed(panel) {
  const { defaults = {}, overrides = [] } = panel.fieldConfig ?? {};
  const filled = defaultsDeep({}, withLists(defaults), FIELDS[panel.type]);
  // Lists are not merged with the defaults.
  for (const name of ['mappings', 'links']) {
    filled[name] = defaults[name] ?? [];
  }
  if (defaults.thresholds) {
    filled.thresholds = lowest(defaults.thresholds);
  }
  return {
    ...panel,
    options: defaultsDeep({}, withLists(panel.options ?? {}), OPTIONS[panel.type]),
    fieldConfig: { defaults: filled, overrides: overrides.map(lowestOf) },
  };
}

/** In JSON the first threshold, minus infinity, is null. */
const lowest = (thresholds) => ({
  ...thresholds,
  steps: thresholds.steps.map((step) => ({ ...step, value: step.value ?? -Infinity })),
});
const lowestOf = (rule) => ({
  ...rule,
  properties: rule.properties.map((property) =>
    property.id === 'thresholds' ? { ...property, value: lowest(property.value) } : property
  ),
});

function withLists(value) {
  return Object.fromEntries(
    Object.entries(value).filter(([, item]) => item !== null && item !== undefined)
  );
}

const STANDARD = {
  unit: unitOverrideProcessor,
  min: numberOverrideProcessor,
  max: numberOverrideProcessor,
  fieldMinMax: booleanOverrideProcessor,
  decimals: numberOverrideProcessor,
  displayName: displayNameOverrideProcessor,
  color: identityOverrideProcessor,
  noValue: stringOverrideProcessor,
  links: dataLinksOverrideProcessor,
  mappings: valueMappingsOverrideProcessor,
  thresholds: thresholdsOverrideProcessor,
  description: stringOverrideProcessor,
  filterable: booleanOverrideProcessor,
};

function registryOf({ fieldConfig: { defaults, overrides } }) {
  const custom = new Set([
    ...Object.keys(defaults.custom ?? {}),
    ...overrides
      .flatMap(({ properties }) => properties.map(({ id }) => id))
      .filter((id) => id.startsWith('custom.'))
      .map((id) => id.slice('custom.'.length)),
  ]);
  const standard = Object.entries(STANDARD).map(([id, process]) => ({ id, path: id, process }));
  const own = [...custom].map((path) => ({
    id: `custom.${path}`,
    path,
    isCustom: true,
    process: identityOverrideProcessor,
  }));
  return new FieldConfigOptionsRegistry(() =>
    [...standard, ...own].map((item) => ({ name: item.id, shouldApply: () => true, ...item }))
  );
}

standardTransformersRegistry.setInit(() =>
  // One has an older name too.
  [...new Set(Object.values(standardTransformers))].map((transformation) => ({
    id: transformation.id,
    name: transformation.name,
    transformation: () => Promise.resolve(transformation),
  }))
);

/**
 * Transform a panel's frames and set the unit, colours, names and links of every field.
 *
 * @param {object} panel As returned by `completed`.
 * @param {object[]} frames
 * @param {(text: string) => string} replaceVariables
 */
export async function prepared(panel, frames, { theme, timeZone, replaceVariables }) {
  const transformed = await lastValueFrom(
    transformDataFrame(panel.transformations ?? [], frames, { interpolate: replaceVariables })
  );
  const data = applyFieldOverrides({
    data: transformed,
    fieldConfig: panel.fieldConfig,
    fieldConfigRegistry: registryOf(panel),
    replaceVariables,
    theme,
    timeZone,
  });
  cacheFieldDisplayNames(data);
  return data;
}
