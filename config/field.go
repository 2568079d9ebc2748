package config

// shape is what a setting's value looks like in the YAML file.
type shape int

const (
	scalar  shape = iota
	list          // a scalar, or a sequence of scalars
	mapping       // of scalars to scalars; has no spelling as flag or variable
)

// raw is a value as its source has it.
type raw struct {
	text  string // a scalar as written, or a list joined by commas
	pairs []pair // of a mapping, in the order of the file
	from  origin
}

type pair struct {
	key, text string
	line      int
}

// origin is where a value was written.
type origin struct {
	name string // --flag, VARIABLE or YAML key
	file string // "" for flags and variables
	line int    // in file, from 1
}

func (o origin) String() string {
	if o.file == "" {
		return o.name
	}
	return o.name + " in " + o.file
}

// field joins a setting to its place in Config.
type field interface {
	set(*Config, raw) error // leaves Config alone on error
	valid(*Config) error
	value(*Config) any
}

type fieldOf[T any] struct {
	at    func(*Config) *T
	parse func(raw) (T, error)
	check func(T) error // nil: everything that parses is valid
}

func as[T any](at func(*Config) *T, parse func(raw) (T, error), check func(T) error) field {
	return fieldOf[T]{at, parse, check}
}

func (f fieldOf[T]) set(c *Config, r raw) error {
	v, err := f.parse(r)
	if err == nil && f.check != nil {
		err = f.check(v)
	}
	if err != nil {
		return err
	}
	*f.at(c) = v
	return nil
}

func (f fieldOf[T]) valid(c *Config) error {
	if f.check == nil {
		return nil
	}
	return f.check(*f.at(c))
}

func (f fieldOf[T]) value(c *Config) any { return *f.at(c) }
