package main

import (
	"fmt"
	"strconv"
	"time"
)

const nestedSize = 437

// nestedColumn is one of the fields of the nested record.
type nestedColumn struct{ name, typ, path string }

// nestedColumns are its 20 leaves, in the order in which they are written.
var nestedColumns = []nestedColumn{
	{"vehicle_id", "text", "vehicle.id"},
	{"model", "text", "vehicle.model"},
	{"year", "int4", "vehicle.year"},
	{"electric", "bool", "vehicle.electric"},
	{"trip_id", "text", "trip.id"},
	{"trip_seq", "int8", "trip.seq"},
	{"trip_km", "float8", "trip.km"},
	{"at", "timestamptz", "at"},
	{"lat", "float8", "position.lat"},
	{"lon", "float8", "position.lon"},
	{"alt", "int4", "position.alt"},
	{"fix", "text", "position.fix"},
	{"rpm", "int4", "engine.rpm"},
	{"load", "float8", "engine.load"},
	{"oil_temp", "float8", "engine.oil.temp"},
	{"oil_pressure", "float8", "engine.oil.pressure"},
	{"battery_v", "float8", "battery.volts"},
	{"battery_pct", "int4", "battery.percent"},
	{"moving", "bool", "status.moving"},
	{"note", "text", "status.note"},
}

// Nested returns the i-th record of 20 nested fields: nestedSize bytes. The
// slice holds until the next call.
func (g *generator) Nested(i int) []byte {
	g.pcg.Seed(uint64(i), 20)
	r := g.rnd
	b := fmt.Appendf(g.buf[:0],
		`{"vehicle":{"id":"vehicle-%06d","model":"model-%02d","year":%d,"electric":%t},`+
			`"trip":{"id":"%08x-%04x","seq":%d,"km":%s},"at":"%s",`+
			`"position":{"lat":%s,"lon":%s,"alt":%d,"fix":"3d"},`+
			`"engine":{"rpm":%d,"load":%s,"oil":{"temp":%s,"pressure":%s}},`+
			`"battery":{"volts":%s,"percent":%d},"status":{"moving":%t,"note":"`,
		r.IntN(devices), r.IntN(40), 2010+r.IntN(16), r.IntN(2) == 0,
		r.Uint32(), r.IntN(1<<16), r.IntN(1_000_000), decimal(r.IntN(1_000_000), 2),
		epoch.Add(time.Duration(r.IntN(86_400_000))*time.Millisecond).Format("2006-01-02T15:04:05.000Z07:00"),
		decimal(r.IntN(180_000_000)-90_000_000, 6), decimal(r.IntN(360_000_000)-180_000_000, 6), r.IntN(2000),
		700+r.IntN(5000), decimal(r.IntN(1000), 1), decimal(400+r.IntN(900), 1), decimal(100+r.IntN(500), 2),
		decimal(1100+r.IntN(400), 2), r.IntN(101), r.IntN(4) != 0)
	b = g.payload(b, nestedSize-len(`"}}`))
	b = append(b, `"}}`...)
	g.buf = b
	return b
}

// decimal writes n with its last places digits behind the point.
func decimal(n, places int) string {
	scale := 1.0
	for range places {
		scale *= 10
	}
	return strconv.FormatFloat(float64(n)/scale, 'f', places, 64)
}
