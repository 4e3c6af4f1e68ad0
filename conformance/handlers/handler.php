<?php
// The functions of the conformance suite in PHP 8, without any package.
//
//     STEPWELL_SIGNING_SECRET=whsec_… php -S 127.0.0.1:3000 handler.php

declare(strict_types=1);

/** Ends the invocation with this answer. */
class Answer extends Exception
{
    public function __construct(public array $answer)
    {
        parent::__construct();
    }
}

/** A step has settled as an error. */
class StepError extends Exception
{
    public function __construct(public object|array $error)
    {
        parent::__construct();
    }
}

class Run
{
    public mixed $input;
    public array $steps = [];

    // Objects stay objects, so that {} does not become [].
    public function __construct(public object $call)
    {
        $this->input = $call->input;
        foreach ($call->steps as $id => $step) {
            $this->steps[(string) $id] = $step;
        }
        $upto = $call->journal->upto;
        for ($more = $call->journal->more; $more; $more = $upto < $page->upto) { // the rest comes in pages
            $page = $this->fetch("{$call->links->journal}?after=$upto");
            foreach ($page->data as $step) {
                $this->steps[$step->id] = $step;
                $upto = max($upto, $step->seq ?? 0);
            }
        }
    }

    private function fetch(string $url): mixed
    {
        $http = ['http' => ['header' => "authorization: bearer {$this->call->token}"]];
        return json_decode(file_get_contents($url, context: stream_context_create($http)), flags: JSON_THROW_ON_ERROR);
    }

    /** The recorded value of a step; asks for it, or does it, where there is none. */
    public function step(string $id, array $op, ?callable $body = null): mixed
    {
        $step = $this->steps[$id] ?? null;
        if ($step === null) {
            $op['id'] = $id;
            if ($op['op'] === 'run' && $this->call->invocation->reason !== 'replay') {
                try {
                    $op['value'] = $body();
                } catch (StepError $failed) {
                    $op['error'] = $failed->error;
                }
            }
            throw new Answer(['ops' => [$op]]);
        }
        if ($step->pending ?? false) {
            throw new Answer(['await' => $id]);
        }
        if (isset($step->error)) {
            throw new StepError($step->error);
        }
        return isset($step->ref) ? $this->fetch($this->call->links->values . rawurlencode($id)) : $step->value;
    }

    public function run(string $id, callable $body, array $fields = []): mixed
    {
        return $this->step($id, ['op' => 'run'] + $fields, $body);
    }

    public function outcome(string $id, array $op): array
    {
        try {
            return ['value' => $this->step($id, $op)];
        } catch (StepError $failed) {
            return ['caught' => $failed->error->type];
        }
    }
}

function three_steps(Run $run): array
{
    $a = $run->run('a', fn () => $run->input->n + 1);
    $b = $run->run('b', fn () => $a + 1);
    return [$a, $b, $run->run('c', fn () => $b + 1)];
}

function names(Run $run): array
{
    $ids = ['constructor', '__proto__', 'größe/名', 'a b%c?d#e', 'map/3', 'name#2'];
    return array_map(fn ($id) => $run->run($id, fn () => $id), $ids);
}

function tell(Run $run): mixed
{
    return isset($run->steps['work']) ? null : throw new Answer(['ops' => [
        ['op' => 'status', 'value' => ['at' => 'work']],
        ['op' => 'tags', 'value' => ['stage' => 'one']],
        ['op' => 'log', 'level' => 'info', 'message' => 'hello', 'fields' => ['n' => 1]],
        ['op' => 'run', 'id' => 'work', 'value' => 1],
    ]]);
}

function fail(Run $run): array
{
    $work = function () use ($run) {
        // PHP forgets everything between two calls, so a file counts how often the body ran.
        $file = sys_get_temp_dir() . "/conformance-{$run->call->run->id}";
        file_put_contents($file, 'x', FILE_APPEND);
        clearstatcache();
        if (filesize($file) > $run->input->times) {
            unlink($file);
            return 'worked';
        }
        $error = ['type' => 'Broken', 'message' => 'on purpose'];
        throw new StepError($error + array_intersect_key((array) $run->input, ['retry' => 1, 'after_ms' => 1]));
    };
    try {
        $policy = ['max_attempts' => $run->input->max_attempts ?? 10, 'initial' => '1s'];
        return ['value' => $run->run('work', $work, ['retry' => $policy])];
    } catch (StepError $failed) {
        $run->run('undo', fn () => null);
        return ['caught' => $failed->error->type, 'attempts' => $failed->error->attempts];
    }
}

function once(Run $run): array
{
    $step = $run->steps['charge'] ?? null;
    if ($step === null) {
        throw new Answer(['ops' => [['op' => 'start', 'id' => 'charge']]]);
    }
    if ($step->started ?? false) {
        throw new Answer(['ops' => [['op' => 'run', 'id' => 'charge', 'value' => 'charged']]]);
    }
    return $run->outcome('charge', []);
}

function nap(Run $run): string
{
    $run->step('nap', ['op' => 'sleep', 'for' => $run->input->for]);
    return 'awake';
}

function signals(Run $run): array
{
    $take = function (string $id, string $name) use ($run) {
        $got = $run->outcome($id, ['op' => 'signal', 'name' => $name, 'timeout' => $run->input->timeout]);
        return $got['caught'] ?? $got['value'];
    };
    return [$take('a/1', 'a'), $take('a/2', 'a'), $take('b', 'b')];
}

function callback(Run $run): array
{
    $run->run('told', fn () => $run->call->links->callback . 'approval');
    return $run->outcome('approval', ['op' => 'callback', 'timeout' => $run->input->timeout]);
}

function parallel(Run $run): object
{
    $mode = $run->input->mode;
    $ids = ['p/1', 'p/2', 'p/3'];
    $settled = [];
    $failed = false;
    foreach ($ids as $id) {
        $step = $run->steps[$id] ?? null;
        if (isset($step->seq)) {
            $failed = $failed || isset($step->error);
            $settled[substr($id, 2)] = isset($step->error) ? ['error' => $step->error->type] : $step->value;
        }
    }
    if (count($settled) < 3 && !($settled && $mode === 'any') && !($failed && $mode === 'all')) {
        $missing = array_filter($ids, fn ($id) => !isset($run->steps[$id]));
        $ops = array_map(fn ($id) => ['op' => 'callback', 'id' => $id], array_values($missing));
        throw new Answer(['ops' => $ops, 'await' => [$mode => $ids]]);
    }
    return (object) $settled;
}

function compensate(Run $run): never
{
    $run->run('reserve', fn () => null);
    if ($run->call->cancel === null) {
        $run->step('wait', ['op' => 'signal', 'name' => 'never']);
    }
    $run->run('release', fn () => null);
    throw new Answer(['error' => ['type' => 'Cancelled', 'message' => 'as asked']]);
}

function big(Run $run): int
{
    $blob = $run->run('blob', fn () => str_repeat('x', $run->input->bytes));
    return $run->run('size', fn () => strlen($blob));
}

function many(Run $run): int
{
    return array_sum(array_map(fn ($n) => $run->run("s/$n", fn () => $n), range(1, $run->input->count)));
}

function count_down(Run $run): array
{
    $tick = $run->run('tick', fn () => $run->call->run->idempotency_prefix . 'tick');
    $seen = [...$run->input->seen, $tick];
    $left = $run->input->left;
    return $left ? throw new Answer(['continue' => ['input' => ['left' => $left - 1, 'seen' => $seen]]]) : $seen;
}

function chain(Run $run): int
{
    ['from' => $from, 'to' => $to, 'sum' => $sum] = (array) $run->input;
    for (; $from <= $to; $from++) {
        if (!isset($run->steps["s/$from"]) && ($run->call->journal->continue_suggested ?? false)) {
            throw new Answer(['continue' => ['input' => ['from' => $from, 'to' => $to, 'sum' => $sum]]]);
        }
        $sum += $run->run("s/$from", fn () => $from);
    }
    return $sum;
}

$functions = [
    'echo' => fn (Run $run) => $run->input,
    'facts' => fn (Run $run) => ['seed' => $run->call->run->seed, 'created_at' => $run->call->run->created_at,
        'key' => $run->call->run->idempotency_prefix . 'pay'],
    'refuse' => fn () => throw new Answer(['error' => ['type' => 'Refused', 'message' => 'as asked', 'data' => ['n' => 1]]]),
    'three-steps' => three_steps(...), 'names' => names(...), 'tell' => tell(...), 'fail' => fail(...), 'once' => once(...),
    'nap' => nap(...), 'signals' => signals(...), 'callback' => callback(...), 'parallel' => parallel(...),
    'compensate' => compensate(...), 'big' => big(...), 'many' => many(...),
    'count' => count_down(...), 'chain' => chain(...),
];

/** Standard Webhooks: HMAC-SHA256 over the body as it came. */
function is_signed(string $body, string $secret): bool
{
    $header = fn (string $name) => $_SERVER['HTTP_WEBHOOK_' . $name] ?? '';
    $at = $header('TIMESTAMP');
    if (!ctype_digit($at) || abs(time() - (int) $at) > 300) {
        return false;
    }
    $key = base64_decode(preg_replace('/^whsec_/', '', $secret));
    $ours = 'v1,' . base64_encode(hash_hmac('sha256', "{$header('ID')}.$at.$body", $key, binary: true));
    foreach (explode(' ', $header('SIGNATURE')) as $theirs) {
        if (hash_equals($ours, $theirs)) {
            return true;
        }
    }
    return false;
}

$body = file_get_contents('php://input');
[$status, $reply] = [401, new stdClass()];
if (is_signed($body, getenv('STEPWELL_SIGNING_SECRET'))) {
    $call = json_decode($body, flags: JSON_THROW_ON_ERROR);
    if ($call->type === 'discover') {
        $names = array_map(fn ($name) => ['name' => $name], array_keys($functions));
        [$status, $reply] = [200, ['protocol' => [1, 1], 'pages' => true, 'functions' => $names]];
    } elseif ($call->type === 'run' && isset($functions[$call->function])) {
        try {
            [$status, $reply] = [200, ['result' => $functions[$call->function](new Run($call))]];
        } catch (Answer $answer) {
            [$status, $reply] = [200, $answer->answer];
        }
    } else {
        $status = 404;
    }
}
http_response_code($status);
header('content-type: application/json');
echo json_encode($reply, JSON_THROW_ON_ERROR | JSON_PRESERVE_ZERO_FRACTION);
