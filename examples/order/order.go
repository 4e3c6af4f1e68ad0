// A durable function in Go, with the standard library alone.
//
//	PORT=3000 STEPWELL_SIGNING_SECRET=whsec_… go run order.go
//
// An order is charged, packed (the machine jams twice), approved by somebody, left to cool off and
// shipped. The gateway calls this program again and again with the steps that are recorded so far;
// each time it does the first one that is missing, and answers. What is recorded never runs again.
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Call is what the gateway sends, as far as it is used here.
type Call struct {
	Type     string `json:"type"`
	Function string `json:"function"`
	Run      struct {
		ID                string `json:"id"`
		IdempotencyPrefix string `json:"idempotency_prefix"`
	} `json:"run"`
	Invocation struct {
		Reason string `json:"reason"`
	} `json:"invocation"`
	Input  Order           `json:"input"`
	Steps  map[string]Step `json:"steps"`
	Cancel *struct{}       `json:"cancel"`
}

// Order is the input of the function. Numbers are passed on as they came.
type Order struct {
	Order   json.Number `json:"order"`
	Amount  json.Number `json:"amount"`
	CoolOff string      `json:"cool_off"`
}

// Step is an entry of the journal.
type Step struct {
	Pending bool            `json:"pending"`
	Value   json.RawMessage `json:"value"`
	Error   *Failure        `json:"error"`
}

// Failure says why a step or an order failed.
type Failure struct {
	Type    string `json:"type"`
	Message string `json:"message"`
}

// Object is any JSON object.
type Object = map[string]any

func order(call Call) Object {
	order, key := call.Input, call.Run.IdempotencyPrefix
	missing := func(id string) bool { _, found := call.Steps[id]; return !found }

	if call.Cancel != nil {
		return Object{"error": Failure{"Cancelled", "the order was cancelled"}}
	}
	for id, step := range call.Steps {
		if step.Pending { // asked for and not settled yet: nothing to do until it is
			return Object{}
		}
		if step.Error != nil { // its retries are used up, or nobody approved in time
			return Object{"error": Failure{step.Error.Type, id + ": " + step.Error.Message}}
		}
	}

	switch {
	case missing("charge"):
		return work(call, "charge", func() (any, error) { return charge(order, key+"charge") })
	case missing("pack"):
		return work(call, "pack", func() (any, error) { return pack(order, call.Run.ID) })
	case missing("approved"):
		return ops(Object{"op": "signal", "id": "approved", "name": "approved", "timeout": "1h"})
	case missing("cool-off"):
		coolOff := order.CoolOff
		if coolOff == "" {
			coolOff = "2s"
		}
		return ops(Object{"op": "sleep", "id": "cool-off", "for": coolOff})
	case missing("ship"):
		return work(call, "ship", func() (any, error) { return ship(order, key+"ship") })
	}
	return Object{"result": Object{
		"order":       order.Order,
		"charged":     field(call.Steps["charge"], "amount"),
		"packed":      field(call.Steps["pack"], "parcel"),
		"approved_by": field(call.Steps["approved"], "by"),
		"shipped":     field(call.Steps["ship"], "tracking"),
	}}
}

// The work itself. A step that is cut off by a crash before its answer is recorded runs again, so
// what it does to the outside world is given a key that is the same each time.

func charge(order Order, key string) (any, error) {
	return Object{"id": "ch_" + order.Order.String(), "amount": order.Amount}, nil
}

// By run: how often the packing machine has jammed.
var jams = struct {
	sync.Mutex
	byRun map[string]int
}{byRun: map[string]int{}}

func pack(order Order, run string) (any, error) {
	jams.Lock()
	defer jams.Unlock()
	jams.byRun[run]++
	if jams.byRun[run] <= 2 {
		return nil, errors.New("the packing machine is jammed")
	}
	delete(jams.byRun, run)
	return Object{"parcel": "pa_" + order.Order.String()}, nil
}

func ship(order Order, key string) (any, error) {
	return Object{"tracking": "tr_" + order.Order.String()}, nil
}

// work does a step and reports how it ended. A failure is tried again by the gateway, later.
func work(call Call, id string, body func() (any, error)) Object {
	op := Object{"op": "run", "id": id}
	if call.Invocation.Reason == "replay" { // only asks what we would do: do nothing
		return ops(op)
	}
	note(call.Run.ID + " " + id)
	if value, err := body(); err != nil {
		op["error"] = Failure{"Error", err.Error()}
	} else {
		op["value"] = value
	}
	return ops(op)
}

func ops(op Object) Object { return Object{"ops": []Object{op}} }

// field is a field of a step's value as it came, or null.
func field(step Step, name string) json.RawMessage {
	var fields map[string]json.RawMessage
	if json.Unmarshal(step.Value, &fields) != nil || fields[name] == nil {
		return json.RawMessage("null")
	}
	return fields[name]
}

func note(line string) {
	fmt.Println(line)
	if path := os.Getenv("ORDER_LOG"); path != "" {
		file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			log.Fatal(err)
		}
		defer file.Close()
		fmt.Fprintln(file, line)
	}
}

// Serving it.

// answer gives the HTTP status and the JSON that answer a call.
func answer(call Call) (int, Object) {
	switch {
	case call.Type == "discover":
		return 200, Object{"protocol": []int{1, 1}, "transports": []string{"respond"},
			"functions": []Object{{"name": "order"}}}
	case call.Type == "run" && call.Function == "order":
		return 200, order(call)
	}
	return 404, Object{"message": "no " + call.Type + " of " + call.Function + " here"}
}

// isSigned tells whether the call is the gateway's: Standard Webhooks, HMAC-SHA256 over the body as
// it came.
func isSigned(header http.Header, body []byte, secret string) bool {
	id, at := header.Get("webhook-id"), header.Get("webhook-timestamp")
	seconds, err := strconv.ParseInt(at, 10, 64)
	age := time.Since(time.Unix(seconds, 0))
	if err != nil || age > 5*time.Minute || age < -5*time.Minute {
		return false
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		return false
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + at + "."))
	mac.Write(body)
	ours := []byte("v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	for _, theirs := range strings.Fields(header.Get("webhook-signature")) {
		if hmac.Equal(ours, []byte(theirs)) {
			return true
		}
	}
	return false
}

func serve(response http.ResponseWriter, request *http.Request) {
	var call Call
	status, reply := 400, Object{"message": "this is not a call"}
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return
	}
	if secret := os.Getenv("STEPWELL_SIGNING_SECRET"); secret != "" && !isSigned(request.Header, body, secret) {
		status, reply = 401, Object{"message": "the signature is not right"}
	} else if json.Unmarshal(body, &call) == nil {
		status, reply = answer(call)
	}
	response.Header().Set("content-type", "application/json")
	response.WriteHeader(status)
	json.NewEncoder(response).Encode(reply)
}

func main() {
	port := os.Getenv("PORT")
	if port == "" {
		port = "3000"
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+port, http.HandlerFunc(serve)))
}
