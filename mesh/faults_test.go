package mesh

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestFaults(t *testing.T) {
	said := []Fault{NewFault("web", ":443", "the address is in use"), NewFault("db", ":5432", strings.Repeat("é", 1000))}
	rows := Rows{PopStatus: [][]any{
		{"us", FormatFaults(said)},
		{"sa", FormatFaults(nil)},
		{"eu", FormatFaults(said[:1])},
		{"liar", `[{"pop":"sa","app":"\u001b[31m","error":"x"}]`},
		{"mad", "nonsense"}, {nil, nil}, {"many", "[" + strings.Repeat("{},", MaxFaults) + "{}]"},
	}}
	s := NewSnapshot(POP{}, rows, nil)
	var got []string
	for _, f := range s.Faults {
		got = append(got, fmt.Sprintf("%s %s %s %d", f.POP, f.App, f.Listen, len(f.Error)))
	}
	if want := []string{"eu web :443 21", "liar \uFFFD[31m  1", "us web :443 21", "us db :5432 255"}; !reflect.DeepEqual(got, want) {
		t.Errorf("faults %q, want %q", got, want)
	}
	var named []string
	for _, p := range s.Problems {
		named = append(named, p.ID+" "+p.Field)
	}
	if want := []string{"mad faults", "row 6 (NULL id) node", "many faults"}; !reflect.DeepEqual(named, want) {
		t.Errorf("problems %q, want %q", named, want)
	}
}

// FuzzFaults: whatever a POP wrote of itself, the others can show it.
func FuzzFaults(f *testing.F) {
	f.Add(`[{"app":"a","listen":":1","error":"e"}]`)
	f.Fuzz(func(t *testing.T, text string) {
		faults, err := ParseFaults([]any{"us", text})
		if err != nil {
			return
		}
		for _, one := range faults {
			if one.POP != "us" || len(one.String()) > 4*(maxFault+8) || strings.ContainsAny(one.String(), "\n\r\x1b") {
				t.Fatalf("%q: %+v", text, one)
			}
		}
		again, err := ParseFaults([]any{"us", FormatFaults(faults)})
		if err != nil || len(again) != len(faults) {
			t.Fatalf("%+v is written so that it reads %+v, %v", faults, again, err)
		}
	})
}

// TestFaultsFitIntoARecord: however many there are and however long, all POPs
// are told as much as there is room for, and that there is more.
func TestFaultsFitIntoARecord(t *testing.T) {
	for _, n := range []int{1, MaxFaults, MaxFaults + 1, 5000} {
		var faults []Fault
		for i := range n {
			faults = append(faults, NewFault(strings.Repeat("<&", 100), fmt.Sprint(":", i), strings.Repeat("é", 1000)))
		}
		text, _ := FormatFaults(faults).(string)
		got, err := ParseFaults([]any{"sa", text})
		if err != nil || len(text) > 17<<10 || len(got) == 0 || len(got) > MaxFaults {
			t.Fatalf("%d faults: %d bytes, read as %d, %v", n, len(text), len(got), err)
		}
		more := 0
		for _, f := range got {
			if f.Listen == "" {
				if _, err := fmt.Sscanf(f.Error, "and %d more faults", &more); err != nil {
					t.Errorf("%d faults: %v", n, f)
				}
			}
		}
		if told := len(got); more > 0 && told-1+more != n || more == 0 && told != n {
			t.Errorf("of %d faults %d are told, and %d more", n, told, more)
		}
	}
}
