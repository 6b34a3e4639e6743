// What a dashboard's JSON must satisfy: the types of @grafana/schema, made fit for JSON.
//
// README.md tells what was relaxed or narrowed, and why.

import type { DataTransformerID, FieldMatcherID, FieldType, ReducerID } from '@grafana/data';
import type * as schema from '@grafana/schema';

/** A type as JSON can hold it: an enum becomes the union of its values. */
export type Json<T> = unknown extends T
  ? T
  : T extends string
    ? `${T}`
    : T extends number
      ? `${T}` extends `${infer N extends number}`
        ? N
        : never
      : T extends boolean | null | undefined
        ? T
        : T extends Array<infer Item>
          ? Json<Item>[]
          : T extends object
            ? { [K in keyof T]: Json<T[K]> }
            : never;

/** Options of which any may be absent, since Grafana fills them in from the panel's defaults. */
type Given<T> =
  T extends Array<unknown> ? T : T extends object ? { [K in keyof T]?: Given<T[K]> } : T;

/** The type with its calculations (`calcs`, `reducers`) held to the reducers there are. */
type Calculated<T> =
  T extends Array<unknown>
    ? T
    : T extends object
      ? {
          [K in keyof T]: K extends 'calcs' | 'reducers'
            ? `${ReducerID}`[] | Extract<T[K], undefined>
            : Calculated<T[K]>;
        }
      : T;

interface DataLink {
  title: string;
  url: string;
  targetBlank?: boolean;
  oneClick?: boolean;
}

type Field<Custom> = Omit<Json<schema.FieldConfig>, 'custom' | 'links' | 'unit'> & {
  custom?: Given<Calculated<Json<Custom>>>;
  links?: DataLink[];
  unit?: Unit;
};

type Keys<T> = Extract<keyof T, string>;

/** One changed property of an override: `unit`, `custom.lineWidth` ..., each with its own type. */
type Change<Custom> =
  | { [K in Exclude<Keys<Field<Custom>>, 'custom'>]: { id: K; value?: Field<Custom>[K] } }[Exclude<
      Keys<Field<Custom>>,
      'custom'
    >]
  | {
      [K in Keys<Custom>]: { id: `custom.${K}`; value?: Given<Calculated<Json<Custom[K]>>> };
    }[Keys<Custom>];

type Matcher =
  | {
      id: `${FieldMatcherID.byName | FieldMatcherID.byRegexp | FieldMatcherID.byFrameRefID}`;
      options: string;
    }
  | { id: `${FieldMatcherID.byType}`; options: `${FieldType}` }
  | { id: `${FieldMatcherID.byTypes}`; options: `${FieldType}`[] }
  | {
      id: `${FieldMatcherID.byNames}`;
      options: { names: string[]; mode?: 'exclude' | 'include'; prefix?: string };
    }
  | {
      id: `${FieldMatcherID.byValue}`;
      options: { reducer: `${ReducerID}`; op: string; value: number };
    }
  | {
      id: `${FieldMatcherID.numeric | FieldMatcherID.time | FieldMatcherID.first | FieldMatcherID.firstTimeField}`;
    };

/** A query, as the Prometheus data source reads it: @grafana/schema no longer has its type. */
interface Query extends Omit<Json<schema.DataQuery>, 'datasource' | 'queryType'> {
  datasource: { type: 'prometheus'; uid: string };
  expr: string;
  editorMode?: 'builder' | 'code';
  exemplar?: boolean;
  format?: 'heatmap' | 'table' | 'time_series';
  instant?: boolean;
  interval?: string;
  intervalFactor?: number;
  legendFormat?: string;
  range?: boolean;
}

interface Transformation extends Omit<Json<schema.DataTransformerConfig>, 'id' | 'options'> {
  id: `${DataTransformerID}`;
  options: Record<string, unknown>;
}

/** A panel of a known type: its options and its fields' own settings are held to that type's. */
export interface Panel<Type extends string, Options, Custom = Record<never, never>> extends Omit<
  Json<schema.Panel>,
  'datasource' | 'fieldConfig' | 'options' | 'targets' | 'transformations' | 'type'
> {
  id: number;
  type: Type;
  datasource?: { type: string; uid: string };
  fieldConfig?: {
    defaults: Field<Custom>;
    overrides: { matcher: Matcher; properties: Change<Custom>[] }[];
  };
  options?: Given<Calculated<Json<Options>>>;
  targets?: Query[];
  transformations?: Transformation[];
}

/**
 * The options of a table, with the footer that older schemas had in them, so long as it is off:
 * grafana-foundation-sdk writes it into every table.
 */
export type TableOptions<Options> = Options & {
  footer?: { show: false; countRows?: false; reducer?: string[] };
};

export interface Row extends Omit<Json<schema.RowPanel>, 'panels'> {
  panels: never[];
}

/** A dashboard without its panels, which are held to their own types one by one. */
export interface Frame extends Omit<
  Json<schema.Dashboard>,
  'annotations' | 'panels' | 'templating'
> {
  uid: string;
  title: string;
  panels: never[];
  annotations?: { list?: Annotation[] };
  templating?: { list?: Variable[] };
}

type Source = { type?: string; uid?: string } | null;

interface Annotation extends Omit<Json<schema.AnnotationQuery>, 'datasource' | 'target'> {
  datasource?: Source;
  target?: Partial<Query> | Record<string, unknown>;
  // The Prometheus data source's own.
  expr?: string;
  step?: string;
  tagKeys?: string;
  textFormat?: string;
  titleFormat?: string;
  useValueForTime?: boolean | 'on' | 'off';
}

interface Variable extends Omit<Json<schema.VariableModel>, 'datasource' | 'query'> {
  datasource?: Source;
  definition?: string;
  query?: string | { query: string; refId: string; qryType?: number };
  // A text box's and an interval's.
  auto?: boolean;
  auto_count?: number;
  auto_min?: string;
}
