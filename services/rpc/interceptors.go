package rpc

import (
	"context"
	"crypto/rand"
	"fmt"
	"runtime/debug"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"chorale/services/status"
)

type interceptors struct{ log *zap.Logger }

func (in *interceptors) logUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	start := time.Now()
	resp, err := next(ctx, req)
	in.logCall(info.FullMethod, start, err)
	return resp, err
}

func (in *interceptors) logStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	start := time.Now()
	err := next(srv, ss)
	in.logCall(info.FullMethod, start, err)
	return err
}

func (in *interceptors) logCall(method string, start time.Time, err error) {
	code := grpcstatus.Code(err)
	level := zap.DebugLevel
	switch code {
	case codes.Internal, codes.Unknown, codes.DataLoss:
		level = zap.WarnLevel
	}
	if ce := in.log.Check(level, "call"); ce != nil {
		ce.Write(zap.String("method", method), zap.Stringer("code", code),
			zap.Duration("took", time.Since(start)), zap.Error(err))
	}
}

// mapUnary and mapStream put every error through the one table, those of
// other interceptors too. What the table hides from clients is logged here.
func (in *interceptors) mapUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	resp, err := next(ctx, req)
	return resp, in.mapped(info.FullMethod, err)
}

func (in *interceptors) mapStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	return in.mapped(info.FullMethod, next(srv, ss))
}

func (in *interceptors) mapped(method string, err error) error {
	if err == nil {
		return nil
	}
	p := status.Of(err)
	if p.Reason == status.ReasonInternal {
		in.log.Error("call failed", zap.String("method", method), zap.Error(err))
	}
	return p.GRPC().Err()
}

func (in *interceptors) recoverUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if v := recover(); v != nil {
			resp, err = nil, in.panicked(info.FullMethod, v)
		}
	}()
	return next(ctx, req)
}

func (in *interceptors) recoverStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = in.panicked(info.FullMethod, v)
		}
	}()
	return next(srv, ss)
}

// panicked logs a panic and gives the caller an id to quote.
func (in *interceptors) panicked(method string, v any) error {
	id := rand.Text()
	in.log.Error("panic", zap.String("method", method), zap.String("id", id),
		zap.Any("value", v), zap.ByteString("stack", debug.Stack()))
	return fmt.Errorf("%w, id %s", status.ErrPanic, id)
}
