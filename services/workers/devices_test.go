package workers

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	pb "chorale/proto/gen/chorale/v1"
	"chorale/router"
	"chorale/worker/device"
)

// ear is a stream that keeps what is sent.
type ear struct {
	grpc.BidiStreamingServer[pb.ConnectRequest, pb.ConnectResponse]
	heard []*pb.ConnectResponse
}

func (e *ear) Send(m *pb.ConnectResponse) error {
	e.heard = append(e.heard, m)
	return nil
}

// TestReportDevices: the router hears of the GPUs every interval and soon after
// one falls ill, and what it hears is what the worker saw.
func TestReportDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := device.Report{XIDs: 2, LastXID: 31, GPU: device.GPU{
			Index: 3, Name: "GPU", UUID: "GPU-1", PCI: "0:1", MemoryTotal: 80, MemoryUsed: 60, Utilization: .5, MemoryUtilization: .25,
			Temperature: 44, Power: 300, PowerLimit: 700, ECC: device.ECC{Enabled: true, Corrected: 7, Uncorrected: 1},
		}}
		var mu sync.Mutex // of now
		s := &Server{d: Description{Devices: func() []device.Report {
			mu.Lock()
			defer mu.Unlock()
			return []device.Report{now}
		}}}
		e := &ear{}
		stop := s.reportDevices(context.Background(), &sender{stream: e})
		time.Sleep(3*deviceInterval + deviceInterval/2)
		synctest.Wait()
		if len(e.heard) != 4 {
			t.Errorf("%d reports in three and a half intervals", len(e.heard))
		}
		mu.Lock()
		now.Unhealthy = "fell off"
		mu.Unlock()
		time.Sleep(deviceInterval / 4)
		synctest.Wait()
		if len(e.heard) != 5 {
			t.Fatalf("%d reports, the fifth tells of the illness", len(e.heard))
		}
		stop()
		got := routerOutputs(e.heard[4], nil).Devices
		want := router.DeviceState{
			Index: 3, Name: "GPU", UUID: "GPU-1", PCI: "0:1", MemoryTotal: 80, MemoryUsed: 60, Utilization: .5, MemoryUtilization: .25,
			Temperature: 44, Power: 300, PowerLimit: 700, ECCEnabled: true, ECCCorrected: 7, ECCUncorrected: 1,
			XIDs: 2, LastXID: 31, Unhealthy: "fell off",
		}
		if len(got) != 1 || got[0] != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}
