// Expands dashboard variables like Grafana for a Prometheus data source.

const ALL = '$__all';
const REFERENCE = /\$(\w+)|\$\{(\w+)(?:\.([^:}]+))?(?::([^}]+))?\}|\[\[(\w+)(?::(\w+))?\]\]/g;

// Escapes a value inside a quoted regex, like Grafana's Prometheus data source.
const escapedForPromql = (value) =>
  value
    .replace(/\\/g, '\\\\\\\\')
    .replace(/"/g, '\\\\\\"')
    .replace(/[$^*{}[\]'+?.()|]/g, '\\\\$&');
const escapedForRegex = (value) => value.replace(/[\\^$*+?.()|[\]{}/-]/g, '\\$&');
const alternatives = (values) => (values.length > 1 ? `(${values.join('|')})` : (values[0] ?? ''));

const FORMATS = {
  raw: (values) => (values.length > 1 ? `{${values.join(',')}}` : (values[0] ?? '')),
  regex: (values) => alternatives(values.map(escapedForRegex)),
  pipe: (values) => values.join('|'),
  csv: (values) => values.join(','),
  text: (values) => values.join(' + '),
  queryparam: (values, name) =>
    values.map((value) => `var-${name}=${encodeURIComponent(value)}`).join('&'),
};

/**
 * Replace variables by their values.
 *
 * @param {string} text A query, or a title.
 * @param {Map<string, {values: string[], isAll?: boolean, allValue?: string, isMulti?: boolean,
 *   isPlain?: boolean}>} scope By name. `isPlain`: a built-in variable, such as `$__range`, or a data
 *   source, which is never escaped.
 * @param {'promql' | 'text'} kind The format of variables without one.
 * @returns {string} The text; unknown variables are unchanged.
 */
export function interpolate(text, scope, kind = 'promql') {
  return text.replace(REFERENCE, (whole, bare, braced, _path, format, square, squareFormat) => {
    const name = bare ?? braced ?? square;
    const variable = scope.get(name);
    if (variable === undefined) {
      return whole;
    }
    const wanted = format ?? squareFormat;
    if (wanted !== undefined && !(wanted in FORMATS)) {
      throw new Error(
        `${whole}: the format ${wanted} is not drawn; known are ${Object.keys(FORMATS).join(', ')}`
      );
    }
    if (kind === 'text' && variable.isAll) {
      return 'All';
    }
    if (wanted !== 'text' && variable.isAll && variable.allValue) {
      return variable.allValue;
    }
    if (wanted !== undefined) {
      return FORMATS[wanted](variable.values, name);
    }
    if (kind === 'text') {
      return FORMATS.text(variable.values);
    }
    if (variable.isPlain) {
      return variable.values[0] ?? '';
    }
    // A single-value variable is a plain string between quotes.
    return variable.isMulti
      ? alternatives(variable.values.map(escapedForPromql))
      : (variable.values[0] ?? '').replace(/\\/g, '\\\\').replace(/"/g, '\\"');
  });
}

/**
 * Return the values of all variables of a dashboard, in their order, since one may use earlier ones.
 *
 * @param {object} dashboard
 * @param {Map<string, string[]>} given Values by variable; the single value `All` means all.
 * @param {{labelValues: (query: string) => Promise<string[]>}} prometheus
 * @returns {Promise<Map>} As in `interpolate`, with `label` and `hide` of each.
 */
export async function resolve(dashboard, given, prometheus) {
  const scope = new Map();
  for (const model of dashboard.templating?.list ?? []) {
    const { name, allValue, hide, label = name, multi: isMulti = false } = model;
    const chosen = given.get(name) ?? currentOf(model);
    const isAll =
      model.includeAll === true &&
      (chosen.length === 0 || chosen[0] === ALL || chosen[0] === 'All');
    const isPlain = !['custom', 'query'].includes(model.type);
    const put = (values) =>
      scope.set(name, {
        values,
        isAll,
        allValue,
        isMulti: isMulti || model.includeAll,
        isPlain,
        label,
        hide,
      });
    if (model.type === 'datasource') {
      put([chosen[0] ?? model.query ?? 'prometheus']);
    } else if (model.type === 'query' && (isAll || chosen.length === 0)) {
      const query = typeof model.query === 'string' ? model.query : model.query?.query;
      const found = await prometheus.labelValues(interpolate(query ?? model.definition, scope));
      put(isAll ? found : found.slice(0, 1));
    } else if (isAll || chosen.length === 0) {
      const options = String(model.query ?? '')
        .split(',')
        .map((option) => option.trim());
      put(isAll ? options : options.slice(0, 1));
    } else {
      put(chosen);
    }
  }
  for (const name of given.keys()) {
    if (!scope.has(name)) {
      throw new Error(
        `--var ${name}: "${dashboard.title}" has ${[...scope.keys()].join(', ') || 'no variables'}`
      );
    }
  }
  return scope;
}

function currentOf(model) {
  const value = model.current?.value ?? (model.type === 'textbox' ? model.query : undefined);
  return value === undefined || value === '' ? [] : [value].flat();
}
