// Dashboard variables, expanded as Grafana expands them for a Prometheus data source.

const ALL = '$__all';
const REFERENCE = /\$(\w+)|\$\{(\w+)(?:\.([^:}]+))?(?::([^}]+))?\}|\[\[(\w+)(?::(\w+))?\]\]/g;

// What Grafana's Prometheus data source does to a value that stands inside a quoted regex.
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
 * Put values in the place of variables.
 *
 * @param {string} text A query, or a title.
 * @param {Map<string, {values: string[], isAll?: boolean, allValue?: string, isMulti?: boolean,
 *   isPlain?: boolean}>} scope By name. `isPlain`: Grafana's own, such as `$__range`, and a data
 *   source, never escaped.
 * @param {'promql' | 'text'} kind How a variable is put in that names no format itself.
 * @returns {string} The text; variables that the scope does not have stay as they are.
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
    // A variable with one value at most stands between quotes as a plain string.
    return variable.isMulti
      ? alternatives(variable.values.map(escapedForPromql))
      : (variable.values[0] ?? '').replace(/\\/g, '\\\\').replace(/"/g, '\\"');
  });
}

/**
 * Give every variable of a dashboard its value, in their order, since a later one may name an
 * earlier one.
 *
 * @param {object} dashboard
 * @param {Map<string, string[]>} given Values by variable; the single value `All` stands for all.
 * @param {{labelValues: (query: string) => Promise<string[]>}} prometheus
 * @returns {Promise<Map>} As `interpolate` takes it, each with its `label` and `hide` too.
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
