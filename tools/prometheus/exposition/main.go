// Command exposition reads pages with the parsers that Prometheus uses for its scrapes, for
// tests/battery. Each line of its input is a Page in JSON, each line of its output the Reading of one.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
)

// Page is a body of a scrape, which JSON carries in Base64, and its media type.
type Page struct {
	ContentType string `json:"content_type"`
	Body        []byte `json:"body"`
}

// Reading is what the parsers found. Each of the three readings of a page stops at its first error.
type Reading struct {
	Error    string              `json:"error"`
	Samples  []Sample            `json:"samples"`
	Metadata map[string]Metadata `json:"metadata"`
	// Started has the start of each series in Unix milliseconds, read as for a zero at its start.
	Started []Sample `json:"started"`
	// Native has the sums and counts of the histograms, read as native ones of custom buckets.
	Native []Native `json:"native"`
}

// Sample has the labels in pairs, and numbers as text, since JSON has no infinity.
type Sample struct {
	Labels    [][2]string `json:"labels"`
	Value     string      `json:"value"`
	Timestamp *int64      `json:"timestamp"`
	Start     int64       `json:"start"`
	Exemplar  *Exemplar   `json:"exemplar"`
}

// Exemplar is that of a sample; its time is in Unix milliseconds.
type Exemplar struct {
	Labels    [][2]string `json:"labels"`
	Value     string      `json:"value"`
	Timestamp int64       `json:"timestamp"`
}

// Native is a histogram with all of its buckets in one sample.
type Native struct {
	Labels [][2]string `json:"labels"`
	Count  uint64      `json:"count"`
	Sum    string      `json:"sum"`
	Bounds []string    `json:"bounds"`
	// Counts has the observations of each bucket by its index.
	Counts map[string]float64 `json:"counts"`
}

// Metadata is what a page says of a family.
type Metadata struct {
	Type string `json:"type"`
	Help string `json:"help"`
	Unit string `json:"unit"`
}

func main() {
	in := bufio.NewReader(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return
		}
		var page Page
		if err == nil {
			err = json.Unmarshal(line, &page)
		}
		if err == nil {
			err = out.Encode(read(page))
		}
		if err != nil {
			log.Fatal(err)
		}
	}
}

func read(page Page) Reading {
	found := Reading{
		Samples:  []Sample{},
		Metadata: map[string]Metadata{},
		Started:  []Sample{},
		Native:   []Native{},
	}
	err := walk(page, textparse.ParserOptions{}, found.Metadata, func(p textparse.Parser, entry textparse.Entry) {
		if entry == textparse.EntrySeries {
			found.Samples = append(found.Samples, sampleOf(p))
		}
	})
	if err == nil {
		err = repeated(found.Samples)
	}
	if err == nil {
		skip := textparse.ParserOptions{OpenMetricsSkipSTSeries: true}
		err = walk(page, skip, nil, func(p textparse.Parser, entry textparse.Entry) {
			if entry != textparse.EntrySeries {
				return
			}
			sample := sampleOf(p)
			// Last, as in a scrape: it reads on, and what the parser has of the sample is lost.
			if sample.Start = p.StartTimestamp(); sample.Start != 0 {
				found.Started = append(found.Started, sample)
			}
		})
	}
	if err == nil {
		native := textparse.ParserOptions{ConvertClassicHistogramsToNHCB: true}
		err = walk(page, native, nil, func(p textparse.Parser, entry textparse.Entry) {
			if entry == textparse.EntryHistogram {
				found.Native = append(found.Native, nativeOf(p))
			}
		})
	}
	if err != nil {
		found.Error = err.Error()
	}
	return found
}

// walk visits each entry of a page, and checks the names as a scrape does.
func walk(page Page, options textparse.ParserOptions, metadata map[string]Metadata, visit func(textparse.Parser, textparse.Entry)) error {
	parser, err := textparse.New(page.Body, page.ContentType, labels.NewSymbolTable(), options)
	if err != nil {
		return err
	}
	for {
		entry, err := parser.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if metadata != nil {
			describe(parser, entry, metadata)
		}
		if entry == textparse.EntrySeries || entry == textparse.EntryHistogram {
			var found labels.Labels
			parser.Labels(&found)
			if !found.IsValid(model.LegacyValidation) {
				return fmt.Errorf("invalid names or values in %q", found.String())
			}
		}
		visit(parser, entry)
	}
}

func describe(parser textparse.Parser, entry textparse.Entry, metadata map[string]Metadata) {
	switch entry {
	case textparse.EntryType:
		name, kind := parser.Type()
		known := metadata[string(name)]
		known.Type = string(kind)
		metadata[string(name)] = known
	case textparse.EntryHelp:
		name, help := parser.Help()
		known := metadata[string(name)]
		known.Help = string(help)
		metadata[string(name)] = known
	case textparse.EntryUnit:
		name, unit := parser.Unit()
		known := metadata[string(name)]
		known.Unit = string(unit)
		metadata[string(name)] = known
	}
}

func repeated(samples []Sample) error {
	seen := make(map[string]struct{}, len(samples))
	for _, sample := range samples {
		key := fmt.Sprintf("%q", sample.Labels)
		if _, ok := seen[key]; ok {
			return fmt.Errorf("the series %s is there twice", key)
		}
		seen[key] = struct{}{}
	}
	return nil
}

func sampleOf(parser textparse.Parser) Sample {
	var found labels.Labels
	parser.Labels(&found)
	_, timestamp, value := parser.Series()
	sample := Sample{
		Labels:    pairs(found),
		Value:     number(value),
		Timestamp: timestamp,
	}
	var e exemplar.Exemplar
	if parser.Exemplar(&e) {
		sample.Exemplar = &Exemplar{Labels: pairs(e.Labels), Value: number(e.Value), Timestamp: e.Ts}
	}
	return sample
}

func nativeOf(parser textparse.Parser) Native {
	var found labels.Labels
	parser.Labels(&found)
	native := Native{Labels: pairs(found), Bounds: []string{}, Counts: map[string]float64{}}
	_, _, exact, rounded := parser.Histogram()
	if exact == nil {
		// Only counts that are no integers are read as these.
		native.Count = uint64(rounded.Count)
		native.Sum = number(rounded.Sum)
		return native
	}
	native.Count = exact.Count
	native.Sum = number(exact.Sum)
	for _, bound := range exact.CustomValues {
		native.Bounds = append(native.Bounds, number(bound))
	}
	buckets := exact.PositiveBucketIterator()
	for buckets.Next() {
		bucket := buckets.At()
		native.Counts[strconv.Itoa(int(bucket.Index))] = float64(bucket.Count)
	}
	return native
}

func pairs(found labels.Labels) [][2]string {
	all := [][2]string{}
	found.Range(func(label labels.Label) {
		all = append(all, [2]string{label.Name, label.Value})
	})
	return all
}

func number(value float64) string {
	return strconv.FormatFloat(value, 'g', -1, 64)
}
