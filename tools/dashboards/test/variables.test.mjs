// Variables are expanded like by Grafana's Prometheus data source.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { interpolate, resolve } from '../renderer/variables.mjs';

const scopeOf = (variables) => new Map(Object.entries(variables));
const multi = (...values) => ({ values, isMulti: true });

test('All becomes the value that the dashboard gives it, unescaped', () => {
  const scope = scopeOf({
    model: { values: ['a', 'b'], isAll: true, allValue: '.+', isMulti: true },
  });
  assert.equal(interpolate('x{model=~"$model"}', scope), 'x{model=~".+"}');
});

test('several values become a group of alternatives, escaped for a regex inside quotes', () => {
  const scope = scopeOf({ model: multi('gpt-4.1', 'a(b)') });
  assert.equal(interpolate('x{model=~"$model"}', scope), 'x{model=~"(gpt-4\\\\.1|a\\\\(b\\\\))"}');
});

test('one value of a multi variable is escaped and not grouped', () => {
  assert.equal(interpolate('"${model}"', scopeOf({ model: multi('gpt-4.1') })), '"gpt-4\\\\.1"');
});

test('a variable of one value is a plain string', () => {
  const scope = scopeOf({ job: { values: ['a.b"c'] } });
  assert.equal(interpolate('{job="$job"}', scope), '{job="a.b\\"c"}');
});

test('a format asked for is used', () => {
  const scope = scopeOf({ model: multi('a.b', 'c') });
  assert.equal(
    interpolate('${model:regex} ${model:pipe} ${model:csv}', scope),
    '(a\\.b|c) a.b|c a.b,c'
  );
  assert.equal(interpolate('${model:queryparam}', scope), 'var-model=a.b&var-model=c');
});

test('a format that is not known is an error', () => {
  assert.throws(() => interpolate('${model:lucene}', scopeOf({ model: multi('a') })), /lucene/);
});

test('what is no variable stays', () => {
  assert.equal(interpolate('rate(x[5m]) $1 $nobody', scopeOf({})), 'rate(x[5m]) $1 $nobody');
});

test('a later variable may name an earlier one, and All asks for its values', async () => {
  const asked = [];
  const labelValues = async (query) => {
    asked.push(query);
    return ['small', 'large'];
  };
  const query = (name, text) => ({
    name,
    type: 'query',
    query: text,
    multi: true,
    includeAll: true,
  });
  const dashboard = {
    title: 'D',
    templating: {
      list: [
        query('job', 'label_values(up, job)'),
        query('model', 'label_values(x{job=~"$job"}, model)'),
      ],
    },
  };
  const scope = await resolve(dashboard, new Map([['job', ['one']]]), { labelValues });
  assert.deepEqual(asked, ['label_values(x{job=~"one"}, model)']);
  assert.equal(interpolate('$job $model', scope), 'one (small|large)');
});

test('a value for a variable that the dashboard lacks is an error', async () => {
  await assert.rejects(resolve({ title: 'D' }, new Map([['nobody', ['x']]]), {}), /--var nobody/);
});
