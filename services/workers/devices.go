package workers

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	pb "chorale/proto/gen/chorale/v1"
	"chorale/router"
	"chorale/worker/device"
)

// deviceInterval is how often a worker tells of its GPUs.
const deviceInterval = 2 * time.Second

// sender lets two goroutines send on one stream.
type sender struct {
	mu     sync.Mutex
	stream grpc.BidiStreamingServer[pb.ConnectRequest, pb.ConnectResponse]
}

func (s *sender) send(m *pb.ConnectResponse) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream.Send(m)
}

// reportDevices tells the router of the GPUs now and again, and at once when one
// falls ill, until ctx ends or what it returns is called, which waits.
func (s *Server) reportDevices(ctx context.Context, up *sender) (stop func()) {
	if s.d.Devices == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		const look = deviceInterval / 10
		tick := time.NewTicker(look)
		defer tick.Stop()
		ill := false
		for i := 0; ; i++ {
			reports := s.d.Devices()
			if now := illness(reports) != ""; i%int(deviceInterval/look) == 0 || now != ill {
				ill = now
				if up.send(&pb.ConnectResponse{Devices: devicesProto(reports)}) != nil {
					return // the stream's own loop learns why
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// illness is what is wrong with the first GPU that has something.
func illness(rs []device.Report) string {
	for i := range rs {
		if rs[i].Unhealthy != "" {
			return rs[i].Unhealthy
		}
	}
	return ""
}

func devicesProto(rs []device.Report) []*pb.DeviceInfo {
	out := make([]*pb.DeviceInfo, len(rs))
	for i := range rs {
		r, g := &rs[i], &rs[i].GPU
		out[i] = &pb.DeviceInfo{
			Index: int32(g.Index), Name: g.Name, Uuid: g.UUID, PciBusId: g.PCI, MemoryTotalBytes: g.MemoryTotal, MemoryUsedBytes: g.MemoryUsed,
			Utilization: g.Utilization, MemoryUtilization: g.MemoryUtilization, TemperatureCelsius: int32(g.Temperature),
			PowerWatts: g.Power, PowerLimitWatts: g.PowerLimit, EccEnabled: g.ECC.Enabled, EccCorrected: g.ECC.Corrected,
			EccUncorrected: g.ECC.Uncorrected, XidEvents: r.XIDs, LastXid: r.LastXID, Unhealthy: r.Unhealthy,
		}
	}
	return out
}

func deviceState(d *pb.DeviceInfo) router.DeviceState {
	return router.DeviceState{
		Index: int(d.GetIndex()), Name: d.GetName(), UUID: d.GetUuid(), PCI: d.GetPciBusId(),
		MemoryTotal: d.GetMemoryTotalBytes(), MemoryUsed: d.GetMemoryUsedBytes(),
		Utilization: d.GetUtilization(), MemoryUtilization: d.GetMemoryUtilization(), Temperature: int(d.GetTemperatureCelsius()),
		Power: d.GetPowerWatts(), PowerLimit: d.GetPowerLimitWatts(), ECCEnabled: d.GetEccEnabled(),
		ECCCorrected: d.GetEccCorrected(), ECCUncorrected: d.GetEccUncorrected(),
		XIDs: d.GetXidEvents(), LastXID: d.GetLastXid(), Unhealthy: d.GetUnhealthy(),
	}
}
