// Queries of a dashboard's panels against a live Prometheus, over the intervals Grafana would use.

import { createRequire } from 'node:module';
import { interpolate } from './variables.mjs';

// Grafana's package asks for the browser's language as it loads.
globalThis.navigator ??= { language: 'en', languages: ['en'] };
const { dateMath, dateTime, rangeUtil } = createRequire(import.meta.url)('@grafana/data');

const LABEL_VALUES = /^label_values\((?:(.+),)?\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*\)$/s;

/** A Prometheus server's HTTP API. */
export class Prometheus {
  /** @param {string} url Such as `http://127.0.0.1:9090`. */
  constructor(url) {
    this.url = url.replace(/\/+$/, '');
  }

  /** Ask an endpoint below /api/v1; throws with Prometheus's own words where it refuses. */
  async ask(endpoint, parameters) {
    const form = new URLSearchParams();
    for (const [name, value] of Object.entries(parameters)) {
      form.set(name, String(value));
    }
    let response;
    try {
      response = await fetch(`${this.url}/api/v1/${endpoint}?${form}`);
    } catch (error) {
      throw new Error(
        `no answer from Prometheus at ${this.url}: ${error.cause?.message ?? error.message}`
      );
    }
    const answer = await response.json().catch(() => ({ error: `status ${response.status}` }));
    if (answer.status !== 'success') {
      throw new Error(answer.error);
    }
    return answer.data;
  }

  /**
   * Answer a variable's query, which must be a `label_values(...)`.
   *
   * Every value there ever was counts, not the time range's alone.
   */
  async labelValues(query) {
    const found = LABEL_VALUES.exec(query.trim());
    if (found === null) {
      throw new Error(`${query}: only label_values(metric, label) is drawn as a variable's query`);
    }
    return this.ask(`label/${found[2]}/values`, found[1] ? { 'match[]': found[1].trim() } : {});
  }
}

/**
 * Give a time range.
 *
 * @param {string} from As Grafana writes it: `now-1h`, an ISO time, or milliseconds since 1970.
 * @param {string} to As above.
 * @param {number} now What `now` stands for, in milliseconds since 1970.
 * @returns {{from: number, to: number, raw: object}} Milliseconds since 1970, and what was given.
 */
export function rangeOf(from, to, now) {
  const late = Date.now() - now;
  const at = (text, isEnd) => {
    const time = /^\d+$/.test(text) ? dateTime(Number(text)) : dateMath.parse(text, isEnd);
    if (!time?.isValid()) {
      throw new Error(`${text}: give a time such as now-1h, 2026-01-31T12:00:00Z or milliseconds`);
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
 * Give Grafana's own variables for one query of one panel.
 *
 * @param {object} query
 * @param {object} panel
 * @param {{from: number, to: number}} range
 * @param {number} width The panel's, in pixels: a point a pixel.
 * @param {string} scrapeInterval The data source's, such as `15s`.
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
 * Ask all that a panel asks.
 *
 * @returns {Promise<object[]>} An answer a query: `refId`, `format`, `legendFormat`, `isInstant`,
 *   `step`, and the `result` as Prometheus gives it, or the `error`.
 */
export async function askPanel(panel, { prometheus, scope, range, width, scrapeInterval }) {
  const answers = [];
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
    // A query may be both: Grafana then asks twice.
    const kinds = [
      query.range || !query.instant ? 'range' : '',
      query.instant ? 'instant' : '',
    ].filter(Boolean);
    for (const kind of kinds) {
      const isInstant = kind === 'instant';
      try {
        const aligned = (milliseconds) => Math.floor(milliseconds / 1000 / step) * step;
        const { result, resultType } = isInstant
          ? await prometheus.ask('query', { query: expression, time: range.to / 1000 })
          : await prometheus.ask('query_range', {
              query: expression,
              start: aligned(range.from),
              end: aligned(range.to),
              step,
            });
        const series = resultType === 'scalar' ? [{ metric: {}, value: result }] : result;
        answers.push({ ...about, isInstant, result: series });
      } catch (error) {
        answers.push({ ...about, isInstant, result: [], error: error.message });
      }
    }
  }
  return answers;
}
