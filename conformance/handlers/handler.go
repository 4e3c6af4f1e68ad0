// The functions of the conformance suite in Go, with the standard library alone.
//
//	PORT=3000 STEPWELL_SIGNING_SECRET=whsec_… go run handler.go
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

type Object = map[string]any

type Failure struct {
	Type     string `json:"type"`
	Message  string `json:"message"`
	Attempts int    `json:"attempts,omitempty"`
	Retry    string `json:"retry,omitempty"`
	AfterMS  int    `json:"after_ms,omitempty"`
}

type Step struct {
	ID      string          `json:"id"`
	Seq     int             `json:"seq"`
	Pending bool            `json:"pending"`
	Started bool            `json:"started"`
	Value   json.RawMessage `json:"value"`
	Error   *Failure        `json:"error"`
	Ref     *struct{}       `json:"ref"`
}

type Call struct {
	Type     string          `json:"type"`
	Function string          `json:"function"`
	Input    json.RawMessage `json:"input"`
	Run      struct {
		ID        string `json:"id"`
		Seed      string `json:"seed"`
		CreatedAt string `json:"created_at"`
		Key       string `json:"idempotency_prefix"`
	} `json:"run"`
	Invocation struct {
		Reason string `json:"reason"`
	} `json:"invocation"`
	Steps   map[string]Step `json:"steps"`
	Journal struct {
		Upto int  `json:"upto"`
		More bool `json:"more"`
		Long bool `json:"continue_suggested"`
	} `json:"journal"`
	Cancel *struct{} `json:"cancel"`
	Links  struct {
		Journal  string `json:"journal"`
		Values   string `json:"values"`
		Callback string `json:"callback"`
	} `json:"links"`
	Token string `json:"token"`
	in    struct {
		N           int      `json:"n"`
		For         string   `json:"for"`
		Timeout     string   `json:"timeout"`
		Mode        string   `json:"mode"`
		Bytes       int      `json:"bytes"`
		Count       int      `json:"count"`
		Times       int      `json:"times"`
		Left        int      `json:"left"`
		Seen        []string `json:"seen"`
		From        int      `json:"from"`
		To          int      `json:"to"`
		Sum         int      `json:"sum"`
		Retry       string   `json:"retry"`
		AfterMS     int      `json:"after_ms"`
		MaxAttempts int      `json:"max_attempts"`
	}
}

// Answer ends the invocation: it is thrown as a panic, and caught where the function was called.
type Answer Object

func (call *Call) fetch(url string) []byte {
	request, err := http.NewRequest("GET", url, nil)
	check(err)
	request.Header.Set("authorization", "bearer "+call.Token)
	reply, err := http.DefaultClient.Do(request)
	check(err)
	defer reply.Body.Close()
	body, err := io.ReadAll(reply.Body)
	check(err)
	return body
}

// page fetches the rest of the journal.
func (call *Call) page() {
	for upto := call.Journal.Upto; call.Journal.More; {
		var page struct {
			Data []Step `json:"data"`
			Upto int    `json:"upto"`
		}
		check(json.Unmarshal(call.fetch(fmt.Sprintf("%s?after=%d", call.Links.Journal, upto)), &page))
		for _, step := range page.Data {
			call.Steps[step.ID] = step
			if step.Seq > upto {
				upto = step.Seq
			}
		}
		call.Journal.More = upto < page.Upto
	}
}

// step gives the recorded value or error of a step; asks for it, or does it, where there is none.
func (call *Call) step(id string, op Object, body func() (any, *Failure)) (json.RawMessage, *Failure) {
	step, known := call.Steps[id]
	if !known {
		op["id"] = id
		if op["op"] == "run" && call.Invocation.Reason != "replay" {
			if value, failure := body(); failure != nil {
				op["error"] = failure
			} else {
				op["value"] = value
			}
		}
		panic(Answer{"ops": []Object{op}})
	}
	if step.Pending {
		panic(Answer{"await": id})
	}
	if step.Ref != nil {
		return call.fetch(call.Links.Values + url.PathEscape(id)), nil
	}
	return step.Value, step.Error
}

// run is a step that cannot fail.
func run[T any](call *Call, id string, body func() T) (value T) {
	recorded, _ := call.step(id, Object{"op": "run"}, func() (any, *Failure) { return body(), nil })
	check(json.Unmarshal(recorded, &value))
	return value
}

func (call *Call) outcome(id string, op Object) Object {
	value, failure := call.step(id, op, nil)
	if failure != nil {
		return Object{"caught": failure.Type}
	}
	return Object{"value": value}
}

var tries = struct { // by run: how often the body ran
	sync.Mutex
	byRun map[string]int
}{byRun: map[string]int{}}

func fail(call *Call) any {
	if call.in.MaxAttempts == 0 {
		call.in.MaxAttempts = 10
	}
	policy := Object{"max_attempts": call.in.MaxAttempts, "initial": "1s"}
	value, failure := call.step("work", Object{"op": "run", "retry": policy}, func() (any, *Failure) {
		tries.Lock()
		defer tries.Unlock()
		tries.byRun[call.Run.ID]++
		if tries.byRun[call.Run.ID] > call.in.Times {
			return "worked", nil
		}
		return nil, &Failure{Type: "Broken", Message: "on purpose", Retry: call.in.Retry, AfterMS: call.in.AfterMS}
	})
	if failure != nil {
		run(call, "undo", func() any { return nil })
		return Object{"caught": failure.Type, "attempts": failure.Attempts}
	}
	return Object{"value": value}
}

func parallel(call *Call) any {
	ids := []string{"p/1", "p/2", "p/3"}
	settled, missing, failed := Object{}, []Object{}, false
	for _, id := range ids {
		step, known := call.Steps[id]
		switch {
		case !known:
			missing = append(missing, Object{"op": "callback", "id": id})
		case step.Error != nil:
			settled[id[2:]] = Object{"error": step.Error.Type}
			failed = true
		case step.Seq > 0:
			settled[id[2:]] = step.Value
		}
	}
	mode := call.in.Mode
	if len(settled) < 3 && !(len(settled) > 0 && mode == "any") && !(failed && mode == "all") {
		panic(Answer{"ops": missing, "await": Object{mode: ids}})
	}
	return settled
}

var functions = map[string]func(*Call) any{
	"echo":     func(call *Call) any { return call.Input },
	"fail":     fail,
	"parallel": parallel,
	"facts": func(call *Call) any {
		return Object{"seed": call.Run.Seed, "created_at": call.Run.CreatedAt, "key": call.Run.Key + "pay"}
	},
	"three-steps": func(call *Call) any {
		a := run(call, "a", func() int { return call.in.N + 1 })
		b := run(call, "b", func() int { return a + 1 })
		return []int{a, b, run(call, "c", func() int { return b + 1 })}
	},
	"names": func(call *Call) any {
		values := []string{}
		for _, id := range []string{"constructor", "__proto__", "größe/名", "a b%c?d#e", "map/3", "name#2"} {
			id := id
			values = append(values, run(call, id, func() string { return id }))
		}
		return values
	},
	"refuse": func(call *Call) any {
		panic(Answer{"error": Object{"type": "Refused", "message": "as asked", "data": Object{"n": 1}}})
	},
	"tell": func(call *Call) any {
		if _, done := call.Steps["work"]; !done {
			panic(Answer{"ops": []Object{
				{"op": "status", "value": Object{"at": "work"}},
				{"op": "tags", "value": Object{"stage": "one"}},
				{"op": "log", "level": "info", "message": "hello", "fields": Object{"n": 1}},
				{"op": "run", "id": "work", "value": 1},
			}})
		}
		return nil
	},
	"once": func(call *Call) any {
		step, known := call.Steps["charge"]
		if !known {
			panic(Answer{"ops": []Object{{"op": "start", "id": "charge"}}})
		}
		if step.Started {
			panic(Answer{"ops": []Object{{"op": "run", "id": "charge", "value": "charged"}}})
		}
		return call.outcome("charge", nil)
	},
	"nap": func(call *Call) any {
		call.step("nap", Object{"op": "sleep", "for": call.in.For}, nil)
		return "awake"
	},
	"signals": func(call *Call) any {
		take := func(id, name string) any {
			got := call.outcome(id, Object{"op": "signal", "name": name, "timeout": call.in.Timeout})
			if caught, failed := got["caught"]; failed {
				return caught
			}
			return got["value"]
		}
		return []any{take("a/1", "a"), take("a/2", "a"), take("b", "b")}
	},
	"callback": func(call *Call) any {
		run(call, "told", func() string { return call.Links.Callback + "approval" })
		return call.outcome("approval", Object{"op": "callback", "timeout": call.in.Timeout})
	},
	"compensate": func(call *Call) any {
		run(call, "reserve", func() any { return nil })
		if call.Cancel == nil {
			call.step("wait", Object{"op": "signal", "name": "never"}, nil)
		}
		run(call, "release", func() any { return nil })
		panic(Answer{"error": Object{"type": "Cancelled", "message": "as asked"}})
	},
	"big": func(call *Call) any {
		blob := run(call, "blob", func() string { return strings.Repeat("x", call.in.Bytes) })
		return run(call, "size", func() int { return len(blob) })
	},
	"many": func(call *Call) any {
		sum := 0
		for n := 1; n <= call.in.Count; n++ {
			sum += run(call, fmt.Sprint("s/", n), func() int { return n })
		}
		return sum
	},
	"count": func(call *Call) any {
		seen := append(call.in.Seen, run(call, "tick", func() string { return call.Run.Key + "tick" }))
		if call.in.Left > 0 {
			panic(Answer{"continue": Object{"input": Object{"left": call.in.Left - 1, "seen": seen}}})
		}
		return seen
	},
	"chain": func(call *Call) any {
		sum := call.in.Sum
		for k := call.in.From; k <= call.in.To; k++ {
			id := fmt.Sprint("s/", k)
			if _, known := call.Steps[id]; !known && call.Journal.Long {
				panic(Answer{"continue": Object{"input": Object{"from": k, "to": call.in.To, "sum": sum}}})
			}
			sum += run(call, id, func() int { return k })
		}
		return sum
	},
}

func answer(call *Call) (status int, reply any) {
	function := functions[call.Function]
	if call.Type == "discover" {
		names := []Object{}
		for name := range functions {
			names = append(names, Object{"name": name})
		}
		return 200, Object{"protocol": []int{1, 1}, "pages": true, "functions": names}
	}
	if call.Type != "run" || function == nil {
		return 404, Object{}
	}
	defer func() {
		if thrown := recover(); thrown != nil {
			status, reply = 200, thrown.(Answer)
		}
	}()
	if len(call.Input) > 0 && call.Input[0] == '{' && call.Function != "echo" {
		check(json.Unmarshal(call.Input, &call.in))
	}
	call.page()
	return 200, Object{"result": function(call)}
}

// isSigned follows Standard Webhooks: HMAC-SHA256 over the body as it came.
func isSigned(header http.Header, body []byte, secret string) bool {
	id, at := header.Get("webhook-id"), header.Get("webhook-timestamp")
	seconds, err := strconv.ParseInt(at, 10, 64)
	age := time.Since(time.Unix(seconds, 0))
	if err != nil || age > 5*time.Minute || age < -5*time.Minute {
		return false
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	check(err)
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
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return
	}
	status, reply := 401, any(Object{})
	if isSigned(request.Header, body, os.Getenv("STEPWELL_SIGNING_SECRET")) {
		var call Call
		check(json.Unmarshal(body, &call))
		status, reply = answer(&call)
	}
	response.Header().Set("content-type", "application/json")
	response.WriteHeader(status)
	json.NewEncoder(response).Encode(reply)
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	port := os.Getenv("PORT")
	if port == "" {
		port = "3000"
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+port, http.HandlerFunc(serve)))
}
