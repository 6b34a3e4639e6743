// Intervals and ranges equal Grafana's.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { intervals, rangeOf } from '../renderer/queries.mjs';

const HOUR = { from: 0, to: 3_600_000 };
const valueOf = (name, ...rest) => intervals(...rest).scope.get(name).values[0];

test('the rate interval is four scrapes where the step is short', () => {
  assert.equal(valueOf('__rate_interval', {}, {}, HOUR, 1000, '15s'), '60s');
});

test('the rate interval is a step and a scrape where the step is long', () => {
  const day = { from: 0, to: 24 * 3_600_000 };
  assert.equal(valueOf('__interval', {}, {}, day, 500, '15s'), '120s');
  assert.equal(valueOf('__rate_interval', {}, {}, day, 500, '15s'), '135s');
});

test("a panel's least interval is kept to", () => {
  assert.equal(intervals({}, { interval: '1m' }, HOUR, 1000, '15s').step, 60);
});

test('the range is told in seconds', () => {
  assert.equal(valueOf('__range', {}, {}, HOUR, 1000, '15s'), '3600s');
});

test('a relative range counts back from the time that now stands for', () => {
  const now = Date.parse('2026-01-31T12:00:00Z');
  const { from, to } = rangeOf('now-1h', 'now', now);
  assert.ok(Math.abs(to - now) < 1000 && Math.abs(to - from - 3_600_000) < 1000);
});

test('an empty range is an error', () => {
  assert.throws(() => rangeOf('now', 'now-1h', Date.now()), /empty/);
});
