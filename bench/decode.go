package main

import "context"

func (b *Bench) decode(context.Context) error { return nil }
