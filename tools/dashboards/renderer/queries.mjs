// Runs the queries of panels against Prometheus, with the intervals of Grafana.

import { createRequire } from 'node:module';
import { interpolate } from './variables.mjs';

// Grafana's package reads the browser's language when it loads.
globalThis.navigator ??= { language: 'en', languages: ['en'] };
const { dateMath, dateTime, rangeUtil } = createRequire(import.meta.url)('@grafana/data');

const LABEL_VALUES = /^label_values\((?:(.+),)?\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*\)$/s;

/** A Prometheus server's HTTP API. */
export class Prometheus {
  /** @param {string} url Such as `http://127.0.0.1:9090`. */
  constructor(url) {
    this.url = url.replace(/\/+$/, '');
  }

  /** Request an endpoint below /api/v1; throws Prometheus's error message. */
  async request(endpoint, parameters) {
    const form = new URLSearchParams();
    for (const [name, value] of Object.entries(parameters)) {
      form.set(name, String(value));
    }
    let response;
    try {
      response = await fetch(`${this.url}/api/v1/${endpoint}?${form}`);
    } catch (error) {
      throw new Error(
        `no response from Prometheus at ${this.url}: ${error.cause?.message ?? error.message}`
      );
    }
    const body = await response.json().catch(() => ({ error: `status ${response.status}` }));
    if (body.status !== 'success') {
      throw new Error(body.error);
    }
    return body.data;
  }

  /**
   * Answer a variable's query, which must be a `label_values(...)`.
   *
   * Every value there ever was counts, not the time range's alone.
   */
  async labelValues(query) {
    const found = LABEL_VALUES.exec(query.trim());
    if (found === null) {
      throw new Error(`the query of a variable must be label_values(metric, label), got ${query}`);
    }
    return this.request(`label/${found[2]}/values`, found[1] ? { 'match[]': found[1].trim() } : {});
  }
}

/**
 * Return a time range.
 *
 * @param {string} from As in Grafana: `now-1h`, an ISO time, or milliseconds since 1970.
 * @param {string} to As above.
 * @param {number} now The value of `now`, in milliseconds since 1970.
 * @returns {{from: number, to: number, raw: object}} Milliseconds since 1970, and the arguments.
 */
export function rangeOf(from, to, now) {
  const late = Date.now() - now;
  const at = (text, isEnd) => {
    const time = /^\d+$/.test(text) ? dateTime(Number(text)) : dateMath.parse(text, isEnd);
    if (!time?.isValid()) {
      throw new Error(
        `a time must be such as now-1h, 2026-01-31T12:00:00Z or milliseconds, got ${text}`
      );
    }
    return text.startsWith('now')
      ? Math.round((time.valueOf() - late) / 1000) * 1000
      : time.valueOf();
  };
  const range = { from: at(from, false), to: at(to, true), raw: { from, to } };
  if (range.from >= range.to) {
    throw new Error(`the range from ${from} to ${to} is empty`);
  }
  return range;
}

/**
 * Return Grafana's built-in variables for a query.
 *
 * @param {object} query
 * @param {object} panel
 * @param {{from: number, to: number}} range
 * @param {number} width The width of the panel in pixels; there is one point per pixel.
 * @param {string} scrapeInterval That of the data source, such as `15s`.
 * @returns {{step: number, scope: Map}} The step in seconds, and the variables.
 */
export function intervals(query, panel, range, width, scrapeInterval) {
  const least = query.interval || panel.interval || scrapeInterval;
  const times = { from: dateTime(range.from), to: dateTime(range.to) };
  const { intervalMs } = rangeUtil.calculateInterval(times, panel.maxDataPoints ?? width, least);
  const scraped = rangeUtil.intervalToMs(query.interval || scrapeInterval);
  const rateMs = Math.max(intervalMs + scraped, 4 * scraped);
  const rangeMs = range.to - range.from;
  const rangeSeconds = Math.max(1, Math.round(rangeMs / 1000));
  const own = {
    __interval: duration(intervalMs),
    __interval_ms: intervalMs,
    __rate_interval: duration(rateMs),
    __rate_interval_ms: rateMs,
    __range: `${rangeSeconds}s`,
    __range_s: rangeSeconds,
    __range_ms: rangeMs,
    __from: range.from,
    __to: range.to,
  };
  const scope = new Map(
    Object.entries(own).map(([name, value]) => [name, { values: [String(value)], isPlain: true }])
  );
  return { step: intervalMs / 1000, scope };
}

const duration = (milliseconds) =>
  milliseconds % 1000 ? `${milliseconds}ms` : `${milliseconds / 1000}s`;

/**
 * Run the queries of a panel.
 *
 * @returns {Promise<object[]>} A response per query: `refId`, `format`, `legendFormat`, `isInstant`,
 *   `step`, and Prometheus's `result` or the `error`.
 */
export async function queryPanel(panel, { prometheus, scope, range, width, scrapeInterval }) {
  const responses = [];
  for (const query of panel.targets ?? []) {
    if (query.hide) {
      continue;
    }
    const { step, scope: own } = intervals(query, panel, range, width, scrapeInterval);
    const all = new Map([...scope, ...own]);
    const expression = interpolate(query.expr, all);
    const about = {
      refId: query.refId,
      expression,
      format: query.format ?? 'time_series',
      legendFormat: interpolate(query.legendFormat ?? '', all, 'text'),
      step,
    };
    // A query may be both: Grafana then runs it twice.
    const kinds = [
      query.range || !query.instant ? 'range' : '',
      query.instant ? 'instant' : '',
    ].filter(Boolean);
    for (const kind of kinds) {
      const isInstant = kind === 'instant';
      try {
        const aligned = (milliseconds) => Math.floor(milliseconds / 1000 / step) * step;
        const { result, resultType } = isInstant
          ? await prometheus.request('query', { query: expression, time: range.to / 1000 })
          : await prometheus.request('query_range', {
              query: expression,
              start: aligned(range.from),
              end: aligned(range.to),
              step,
            });
        const series = resultType === 'scalar' ? [{ metric: {}, value: result }] : result;
        responses.push({ ...about, isInstant, result: series });
      } catch (error) {
        responses.push({ ...about, isInstant, result: [], error: error.message });
      }
    }
  }
  return responses;
}
