<?php
// A durable function in PHP 8, without any package.
//
//     STEPWELL_SIGNING_SECRET=whsec_… php -S 127.0.0.1:3000 order.php
//
// An order is charged, packed (the machine jams twice), approved by somebody, left to cool off and
// shipped. The gateway calls this program again and again with the steps that are recorded so far;
// each time it does the first one that is missing, and answers. What is recorded never runs again.

declare(strict_types=1);

function order(array $call): array
{
    ['input' => $order, 'steps' => $steps] = $call;
    ['id' => $run, 'idempotency_prefix' => $key] = $call['run'];
    $missing = fn (string $id) => !array_key_exists($id, $steps);

    if ($call['cancel'] !== null) {
        return ['error' => ['type' => 'Cancelled', 'message' => 'the order was cancelled']];
    }
    foreach ($steps as $id => $step) {
        if ($step['pending'] ?? false) { // asked for and not settled yet: nothing to do until it is
            return [];
        }
        if (isset($step['error'])) { // its retries are used up, or nobody approved in time
            return ['error' => ['type' => $step['error']['type'], 'message' => "$id: {$step['error']['message']}"]];
        }
    }

    return match (true) {
        $missing('charge') => work($call, 'charge', fn () => charge($order, $key . 'charge')),
        $missing('pack') => work($call, 'pack', fn () => pack_parcel($order, $run)),
        $missing('approved') => ops(['op' => 'signal', 'id' => 'approved', 'name' => 'approved', 'timeout' => '1h']),
        $missing('cool-off') => ops(['op' => 'sleep', 'id' => 'cool-off', 'for' => $order['cool_off'] ?? '2s']),
        $missing('ship') => work($call, 'ship', fn () => ship($order, $key . 'ship')),
        default => ['result' => [
            'order' => $order['order'],
            'charged' => $steps['charge']['value']['amount'],
            'packed' => $steps['pack']['value']['parcel'],
            'approved_by' => $steps['approved']['value']['by'] ?? null,
            'shipped' => $steps['ship']['value']['tracking'],
        ]],
    };
}

// The work itself. A step that is cut off by a crash before its answer is recorded runs again, so
// what it does to the outside world is given a key that is the same each time.

function charge(array $order, string $key): array
{
    return ['id' => "ch_{$order['order']}", 'amount' => $order['amount']];
}

function pack_parcel(array $order, string $run): array
{
    // PHP forgets everything between two calls, so a file counts how often the machine has jammed.
    $file = sys_get_temp_dir() . "/order-example-$run";
    $jams = is_file($file) ? (int) file_get_contents($file) : 0;
    if ($jams < 2) {
        file_put_contents($file, (string) ($jams + 1));
        throw new RuntimeException('the packing machine is jammed');
    }
    unlink($file);
    return ['parcel' => "pa_{$order['order']}"];
}

function ship(array $order, string $key): array
{
    return ['tracking' => "tr_{$order['order']}"];
}

/** Does a step and reports how it ended. A failure is tried again by the gateway, later. */
function work(array $call, string $id, callable $body): array
{
    $op = ['op' => 'run', 'id' => $id];
    if ($call['invocation']['reason'] === 'replay') { // only asks what we would do: do nothing
        return ops($op);
    }
    note("{$call['run']['id']} $id");
    try {
        $op['value'] = $body();
    } catch (Exception $error) {
        $op['error'] = ['type' => $error::class, 'message' => $error->getMessage()];
    }
    return ops($op);
}

function ops(array $op): array
{
    return ['ops' => [$op]];
}

function note(string $line): void
{
    file_put_contents('php://stdout', "$line\n");
    if ($path = getenv('ORDER_LOG')) {
        file_put_contents($path, "$line\n", FILE_APPEND);
    }
}

// Serving it.

/** The HTTP status and the JSON that answer a call. */
function answer(array $call): array
{
    $function = $call['function'] ?? '';
    return match (true) {
        $call['type'] === 'discover' =>
            [200, ['protocol' => [1, 1], 'transports' => ['respond'], 'functions' => [['name' => 'order']]]],
        $call['type'] === 'run' && $function === 'order' => [200, order($call)],
        default => [404, ['message' => "no {$call['type']} of $function here"]],
    };
}

/** Whether the call is the gateway's: Standard Webhooks, HMAC-SHA256 over the body as it came. */
function is_signed(string $body, string $secret): bool
{
    $header = fn (string $name) => $_SERVER['HTTP_WEBHOOK_' . $name] ?? '';
    $at = $header('TIMESTAMP');
    if (!ctype_digit($at) || abs(time() - (int) $at) > 300) {
        return false;
    }
    $key = base64_decode(preg_replace('/^whsec_/', '', $secret));
    $mac = hash_hmac('sha256', "{$header('ID')}.$at.$body", $key, binary: true);
    $ours = 'v1,' . base64_encode($mac);
    foreach (explode(' ', $header('SIGNATURE')) as $theirs) {
        if (hash_equals($ours, $theirs)) {
            return true;
        }
    }
    return false;
}

$body = file_get_contents('php://input');
$secret = getenv('STEPWELL_SIGNING_SECRET');
[$status, $reply] = $secret && !is_signed($body, $secret)
    ? [401, ['message' => 'the signature is not right']]
    : answer(json_decode($body, associative: true, flags: JSON_THROW_ON_ERROR));
http_response_code($status);
header('content-type: application/json');
echo json_encode($reply ?: new stdClass(), JSON_THROW_ON_ERROR);
