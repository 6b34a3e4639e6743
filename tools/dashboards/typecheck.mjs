#!/usr/bin/env node
// Hold dashboards' JSON to Grafana's own types with the TypeScript compiler.
//
//     node typecheck.mjs DASHBOARD.json ...
//
// Exit code 0 where all hold, 1 where one does not, 2 where a file cannot be read.

import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import ts from 'typescript';

const HERE = import.meta.dirname;
const require = createRequire(import.meta.url);
const SCHEMA = path.dirname(require.resolve('@grafana/schema/package.json'));
const OPTIONS = {
  strict: true,
  noEmit: true,
  skipLibCheck: true,
  module: ts.ModuleKind.ESNext,
  moduleResolution: ts.ModuleResolutionKind.Bundler,
  target: ts.ScriptTarget.ES2022,
  types: [],
};

// Panels whose name in a dashboard is not that of their folder in @grafana/schema.
const FOLDERS = {
  annolist: 'annotationslist',
  dashlist: 'dashboardlist',
  'state-timeline': 'statetimeline',
  'status-history': 'statushistory',
};

/** Give the module that declares a panel type's options, undefined where there is none. */
function panelModule(type) {
  const folder = FOLDERS[type] ?? type.toLowerCase();
  const { exports } = JSON.parse(readFileSync(path.join(SCHEMA, 'package.json'), 'utf8'));
  const name = Object.keys(exports).find((key) => key.includes(`/composable/${folder}/panelcfg/`));
  if (name === undefined) {
    return undefined;
  }
  const declarations = readFileSync(path.join(SCHEMA, exports[name].types), 'utf8');
  return {
    name: path.posix.join('@grafana/schema', name),
    hasFieldConfig: /export interface FieldConfig\b/.test(declarations),
  };
}

/** Give every unit that Grafana knows by its id, as a union, with the patterns of those it reads. */
function units() {
  // Grafana asks the browser for its language when it lists the formats of dates.
  globalThis.navigator ??= { language: 'en', languages: ['en'] };
  const { getValueFormats } = require('@grafana/data');
  const ids = getValueFormats().flatMap((category) => category.submenu.map((unit) => unit.value));
  const patterns = ['prefix', 'suffix', 'time', 'si', 'count', 'currency', 'bool'];
  return [
    ...ids.map((id) => JSON.stringify(id)),
    ...patterns.map((pattern) => `\`${pattern}:\${string}\``),
  ].join(' | ');
}

/** Write one dashboard's TypeScript; `parts` says which lines are which panel's. */
function source(dashboard) {
  const lines = [];
  const parts = [];
  const unknown = [];
  const put = (label, value, type) => {
    const text = `export const part_${parts.length} = ${JSON.stringify(value, null, 1)} satisfies ${type};`;
    parts.push({ label, first: lines.length });
    lines.push(...text.split('\n'));
  };
  const imports = new Map();
  const typeOf = (panel) => {
    const module = panelModule(String(panel.type));
    if (module === undefined) {
      return undefined;
    }
    if (!imports.has(panel.type)) {
      imports.set(panel.type, `import type * as panel_${imports.size} from '${module.name}';`);
    }
    const alias = `panel_${[...imports.keys()].indexOf(panel.type)}`;
    const custom = module.hasFieldConfig ? `, ${alias}.FieldConfig` : '';
    const options =
      panel.type === 'table' ? `types.TableOptions<${alias}.Options>` : `${alias}.Options`;
    return `types.Panel<${JSON.stringify(panel.type)}, ${options}${custom}>`;
  };
  put('the dashboard itself', { ...dashboard, panels: [] }, 'types.Frame');
  const visit = (panel) => {
    const label = `panel ${panel.id} "${panel.title ?? ''}" (${panel.type})`;
    if (panel.type === 'row') {
      put(label, { ...panel, panels: [] }, 'types.Row');
      (panel.panels ?? []).forEach(visit);
      return;
    }
    const type = typeOf(panel);
    if (type === undefined) {
      unknown.push(`${label}: @grafana/schema has no panel type ${JSON.stringify(panel.type)}`);
    } else {
      put(label, panel, type);
    }
  };
  (dashboard.panels ?? []).forEach(visit);
  // The imports come last, so that the lines noted above hold.
  lines.push(...imports.values(), "import type * as types from './types/dashboard';");
  return { text: lines.join('\n'), parts, unknown };
}

/** Read files as the compiler does, those that were just written here first. */
function hostOf(written) {
  const host = ts.createCompilerHost(OPTIONS);
  const { fileExists, getSourceFile, readFile } = host;
  host.fileExists = (name) => written.has(name) || fileExists(name);
  host.readFile = (name) => written.get(name) ?? readFile(name);
  host.getSourceFile = (name, ...rest) =>
    written.has(name)
      ? ts.createSourceFile(name, written.get(name), rest[0])
      : getSourceFile(name, ...rest);
  return host;
}

/** Give the property that a line of the written JSON belongs to, such as `options.legend.calcs`. */
function propertyAt(lines, first, line) {
  const names = [];
  let depth = Infinity;
  for (let at = line; at > first; at -= 1) {
    const [, indent, key] = /^( *)(?:"((?:[^"\\]|\\.)*)": )?/.exec(lines[at]);
    if (indent.length < depth && !/^ *[\]}]/.test(lines[at])) {
      depth = indent.length;
      if (key !== undefined) {
        names.unshift(key);
      }
    }
  }
  return names.join('.');
}

/** Give the compiler's deepest reasons, without the shapes of whole panels. */
function explain({ messageText }) {
  const lines = ts.flattenDiagnosticMessageText(messageText, '\n').split('\n');
  return lines
    .slice(-2)
    .map((line) => line.trim().replace(/'\{ .{80,}?\}'/g, "'{ ... }'"))
    .join('\n    ');
}

function main(files) {
  if (files.length === 0) {
    console.error('usage: node typecheck.mjs DASHBOARD.json ...');
    return 2;
  }
  const unitType = `export {};\ndeclare global { type Unit = ${units()}; }\n`;
  const written = new Map([[path.join(HERE, 'units.gen.ts'), unitType]]);
  const checked = new Map();
  for (const [number, file] of files.entries()) {
    let dashboard;
    try {
      dashboard = JSON.parse(readFileSync(file, 'utf8'));
    } catch (error) {
      console.error(`${file}: ${error.message}`);
      return 2;
    }
    const name = path.join(HERE, `dashboard_${number}.gen.ts`);
    const made = source(dashboard);
    written.set(name, made.text);
    checked.set(name, { file, title: dashboard.title, ...made });
  }
  const program = ts.createProgram([...written.keys()], OPTIONS, hostOf(written));
  const complaints = [...checked.values()].flatMap(({ file, title, unknown }) =>
    unknown.map((text) => `${file}: "${title}", ${text}`)
  );
  for (const diagnostic of ts.getPreEmitDiagnostics(program)) {
    const dashboard = checked.get(diagnostic.file?.fileName);
    if (dashboard === undefined) {
      complaints.push(`${diagnostic.file?.fileName ?? 'the compiler'}: ${explain(diagnostic)}`);
      continue;
    }
    const { line } = diagnostic.file.getLineAndCharacterOfPosition(diagnostic.start);
    const part = dashboard.parts.findLast(({ first }) => first <= line);
    const where = propertyAt(dashboard.text.split('\n'), part.first, line);
    const place = [`"${dashboard.title}"`, part.label, where].filter(Boolean).join(', ');
    complaints.push(`${dashboard.file}: ${place}:\n    ${explain(diagnostic)}`);
  }
  complaints.forEach((complaint) => console.error(complaint));
  const count = [...checked.values()].reduce((sum, { parts }) => sum + parts.length - 1, 0);
  console.log(
    complaints.length > 0
      ? `mistakes: ${complaints.length}, in ${files.length} files`
      : `${count} panels and rows in ${files.length} files hold to Grafana's types`
  );
  return complaints.length > 0 ? 1 : 0;
}

process.exitCode = main(process.argv.slice(2));
