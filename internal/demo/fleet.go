package demo

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// fleet makes the telemetry of some vehicles, one record at a time. The same
// seed makes the same records.
type fleet struct {
	rnd      *rand.Rand
	vehicles []vehicle
	time     time.Time
	made     int
}

type vehicle struct {
	id        string
	seq       int64
	lat, lon  float64
	heading   float64
	speed     float64
	odometer  float64
	coolant   float64
	charge    float64
	trip      uint64
	driver    int
	direction float64
}

// reading is one record of a vehicle.
type reading struct {
	vehicle int
	seq     int64
	time    time.Time
	value   []byte
	// malformed says that the record is one that nobody can use.
	malformed bool
}

const (
	vehicles = 400
	// malformedEvery is how often a vehicle's firmware has a bad moment.
	malformedEvery = 200
)

func newFleet(seed uint64, start time.Time) *fleet {
	f := &fleet{rnd: rand.New(rand.NewPCG(seed, 1)), vehicles: make([]vehicle, vehicles), time: start} //nolint:gosec // telemetry, not secrets
	for i := range f.vehicles {
		f.vehicles[i] = vehicle{
			id: fmt.Sprintf("VH-%05d", 10_000+i*37), lat: 48.1 + f.rnd.Float64(), lon: 11.2 + f.rnd.Float64()*2,
			heading: f.rnd.Float64() * 360, speed: 30 + f.rnd.Float64()*60, odometer: 10_000 + f.rnd.Float64()*200_000,
			coolant: 70 + f.rnd.Float64()*20, charge: 20 + f.rnd.Float64()*80, trip: f.rnd.Uint64(), driver: f.rnd.IntN(900),
		}
	}
	return f
}

// next makes the next record: the vehicles take turns in random order, each
// counting its own sequence.
func (f *fleet) next() reading {
	f.made++
	f.time = f.time.Add(time.Duration(1+f.rnd.IntN(5)) * time.Millisecond)
	n := f.rnd.IntN(len(f.vehicles))
	v := &f.vehicles[n]
	v.drive(f.rnd)
	r := reading{vehicle: n, seq: v.seq, time: f.time}
	r.value = v.document(f.time, f.rnd)
	if f.made%malformedEvery == 0 {
		r.malformed = true
		r.value = spoil(v, f.time, r.value, f.made/malformedEvery)
	}
	return r
}

func (v *vehicle) drive(rnd *rand.Rand) {
	v.seq++
	v.direction += (rnd.Float64() - 0.5) * 10
	v.heading = mod360(v.heading + v.direction/10)
	v.speed = min(130, max(0, v.speed+(rnd.Float64()-0.5)*8))
	v.odometer += v.speed / 3600
	v.lat += (rnd.Float64() - 0.5) * 0.001
	v.lon += (rnd.Float64() - 0.5) * 0.001
	v.coolant = min(115, max(60, v.coolant+(rnd.Float64()-0.5)))
	v.charge = max(3, v.charge-rnd.Float64()*0.01)
}

func mod360(d float64) float64 {
	for d < 0 {
		d += 360
	}
	for d >= 360 {
		d -= 360
	}
	return d
}

func (v *vehicle) document(at time.Time, rnd *rand.Rand) []byte {
	return fmt.Appendf(nil, `{"vehicle_id":%q,"seq":%d,"ts":%q,"trip":{"id":"%016x","driver":"D-%03d","route":"R%d"},`+
		`"position":{"lat":%.6f,"lon":%.6f,"heading":%.1f,"satellites":%d},"speed_kmh":%.1f,"odometer_km":%.1f,`+
		`"engine":{"rpm":%d,"coolant_c":%d,"oil_c":%d,"oil_kpa":%d},"battery":{"charge_pct":%.1f,"voltage":%.2f,"cell_c":[%d,%d,%d,%d]},`+
		`"tires":{"kpa":[%d,%d,%d,%d]},"doors":{"driver":false,"passenger":false,"cargo":%t},"cabin_c":%.1f,"firmware":"7.%d.2"}`,
		v.id, v.seq, at.UTC().Format(time.RFC3339Nano), v.trip, v.driver, v.driver%60,
		v.lat, v.lon, v.heading, 6+rnd.IntN(8), v.speed, v.odometer,
		800+int(v.speed*25), int(v.coolant), int(v.coolant)+12, 250+rnd.IntN(200),
		v.charge, 350+rnd.Float64()*50, 24+rnd.IntN(9), 24+rnd.IntN(9), 24+rnd.IntN(9), 24+rnd.IntN(9),
		215+rnd.IntN(20), 215+rnd.IntN(20), 215+rnd.IntN(20), 215+rnd.IntN(20), rnd.IntN(50) == 0, 18+rnd.Float64()*6, v.driver%9)
}

// spoil makes the n-th malformed record out of a good one, each kind in turn.
func spoil(v *vehicle, at time.Time, good []byte, n int) []byte {
	ts := at.UTC().Format(time.RFC3339Nano)
	switch n % 6 {
	case 0: // cut off in transit
		return good[:len(good)/2]
	case 1: // a word where a number belongs
		return fmt.Appendf(nil, `{"vehicle_id":%q,"seq":%d,"ts":%q,"position":{"lat":48.1,"lon":11.5},"speed_kmh":"fast"}`, v.id, v.seq, ts)
	case 2: // no vehicle
		return fmt.Appendf(nil, `{"seq":%d,"ts":%q,"position":{"lat":48.1,"lon":11.5},"speed_kmh":50.0}`, v.seq, ts)
	case 3: // a sensor that reads 70,000 degrees does not fit an int2
		return fmt.Appendf(nil, `{"vehicle_id":%q,"seq":%d,"ts":%q,"position":{"lat":48.1,"lon":11.5},"engine":{"coolant_c":70000}}`, v.id, v.seq, ts)
	case 4: // a clock that was never set
		return fmt.Appendf(nil, `{"vehicle_id":%q,"seq":%d,"ts":"0000-00-00","position":{"lat":48.1,"lon":11.5}}`, v.id, v.seq)
	default: // not JSON at all
		return fmt.Appendf(nil, "ERR %s seq=%d watchdog reset\n", v.id, v.seq)
	}
}
