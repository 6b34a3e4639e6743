#!/usr/bin/env node
// Check dashboards' JSON against Grafana's types with the TypeScript compiler.
//
//     node typecheck.mjs DASHBOARD.json ...
//
// Exit code: 0 if all are correct, 1 if one is not, 2 if a file cannot be read.

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

// Panels whose type differs from their folder in @grafana/schema.
const FOLDERS = {
  annolist: 'annotationslist',
  dashlist: 'dashboardlist',
  'state-timeline': 'statetimeline',
  'status-history': 'statushistory',
};

/** Return the module that declares the options of a panel type, or undefined. */
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

/** Return all units of Grafana as a union of ids and patterns. */
function units() {
  // Grafana reads the browser's language when it lists date formats.
  globalThis.navigator ??= { language: 'en', languages: ['en'] };
  const { getValueFormats } = require('@grafana/data');
  const ids = getValueFormats().flatMap((category) => category.submenu.map((unit) => unit.value));
  const patterns = ['prefix', 'suffix', 'time', 'si', 'count', 'currency', 'bool'];
  return [
    ...ids.map((id) => JSON.stringify(id)),
    ...patterns.map((pattern) => `\`${pattern}:\${string}\``),
  ].join(' | ');
}

/** Write the TypeScript of a dashboard; `parts` maps lines to panels. */
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
  // Imports come last, so that the line numbers above remain correct.
  lines.push(...imports.values(), "import type * as types from './types/dashboard';");
  return { text: lines.join('\n'), parts, unknown };
}

/** Read files like the compiler, but the written ones from memory. */
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

/** Return the property of a line of the JSON, such as `options.legend.calcs`. */
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

/** Return the compiler's innermost messages, without the types of whole panels. */
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
