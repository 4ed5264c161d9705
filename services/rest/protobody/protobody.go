// Package protobody reads JSON bodies into protobuf messages and says in terms
// of fields what is wrong with one: unknown fields are refused with their
// path, and wrong types by path, wanted and given type. protojson alone speaks
// of lines, columns and Go types.
package protobody

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"chorale/services/rest/jsonbody"
	"chorale/services/status"
)

// maxItems bounds what is searched for the cause of an error.
const maxItems = 1 << 20

// Unmarshal reads body into m; an empty body is the empty message. Its errors
// are *router.FieldError with paths of proto field names, as validation has
// them.
func Unmarshal(body []byte, m proto.Message) error {
	if len(strings.TrimSpace(string(body))) == 0 {
		return nil
	}
	err := protojson.Unmarshal(body, m)
	if err == nil {
		return nil
	}
	o, perr := jsonbody.Parse(body)
	if perr != nil {
		return perr
	}
	if derr := fields(o, m.ProtoReflect().Descriptor(), ""); derr != nil {
		return derr
	}
	return status.Invalid("body", "%s", clean(err))
}

// clean cuts protojson's prefix, whose blanks vary between builds.
func clean(err error) string {
	s := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	return strings.TrimPrefix(s, "proto: ")
}

// Field finds a field by its JSON or proto name.
func Field(md protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	if fd := md.Fields().ByJSONName(name); fd != nil {
		return fd
	}
	return md.Fields().ByTextName(name)
}

func join(path, name string) string {
	if name == "" {
		name = `""`
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

func fields(o *jsonbody.Object, md protoreflect.MessageDescriptor, path string) error {
	names := o.Names()
	slices.Sort(names)
	seen := map[protoreflect.FullName]string{}
	for _, name := range names {
		fd := Field(md, name)
		if fd == nil {
			return status.Invalid(join(path, name), "is not a field of %s", md.Name())
		}
		v := o.Get(name)
		if !v.Given() {
			continue
		}
		v.Path = join(path, fd.TextName())
		key := fd.FullName()
		if od := fd.ContainingOneof(); od != nil {
			key = od.FullName()
		}
		if other, ok := seen[key]; ok {
			return v.Errorf("must not be given together with %s", other)
		}
		seen[key] = name
		if err := field(v, fd); err != nil {
			return err
		}
	}
	return nil
}

func field(v jsonbody.Value, fd protoreflect.FieldDescriptor) error {
	switch {
	case fd.IsMap():
		return mapField(v, fd)
	case fd.IsList():
		return v.Each(maxItems, func(item jsonbody.Value) error { return single(item, fd) })
	default:
		return single(v, fd)
	}
}

func mapField(v jsonbody.Value, fd protoreflect.FieldDescriptor) error {
	o, err := v.Object()
	if err != nil {
		return err
	}
	names := o.Names()
	slices.Sort(names)
	for _, key := range names {
		item := o.Get(key)
		item.Path = fmt.Sprintf("%s[%q]", v.Path, key)
		if k := fd.MapKey().Kind(); k != protoreflect.StringKind && k != protoreflect.BoolKind {
			if _, err := strconv.ParseInt(key, 10, 64); err != nil {
				return v.Errorf("must have integers as keys, got %q", key)
			}
		}
		if err := single(item, fd.MapValue()); err != nil {
			return err
		}
	}
	return nil
}

// single checks one value against a field's kind.
func single(v jsonbody.Value, fd protoreflect.FieldDescriptor) error {
	var err error
	switch fd.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		if fd.Message().FullName().Parent() == "google.protobuf" {
			return nil // these have forms of their own
		}
		o, err := v.Object()
		if err != nil {
			return err
		}
		return fields(o, fd.Message(), v.Path)
	case protoreflect.BoolKind:
		_, err = v.Bool()
	case protoreflect.StringKind, protoreflect.BytesKind:
		_, err = v.Text()
	case protoreflect.EnumKind:
		if v.Kind() != jsonbody.String {
			_, err = v.Int32()
			break
		}
		s, _ := v.Text()
		if fd.Enum().Values().ByName(protoreflect.Name(s)) == nil {
			err = v.Errorf("is not a %s: %q", fd.Enum().Name(), s)
		}
	default:
		err = number(v, fd.Kind())
	}
	return err
}

func number(v jsonbody.Value, k protoreflect.Kind) error {
	float := k == protoreflect.DoubleKind || k == protoreflect.FloatKind
	if v.Kind() == jsonbody.String { // protojson takes numbers in strings
		s, _ := v.Text()
		_, err := strconv.ParseFloat(s, 64)
		switch {
		case err != nil && float:
			return v.Errorf("must be a number, got string")
		case err != nil:
			return v.Errorf("must be an integer, got string")
		}
		return nil
	}
	var err error
	switch k {
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		_, err = v.Float()
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		_, err = v.Seed()
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		_, err = v.Int()
	default:
		_, err = v.Int32()
	}
	return err
}
