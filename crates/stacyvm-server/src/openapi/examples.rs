//! One example of each type: it is shown at the type, and at every body of that type that has no
//! example of its own.

use serde_json::{Value, json};

/// The example of the schema with this name.
pub(super) fn of(schema: &str) -> Option<Value> {
    sandbox(schema)
        .or_else(|| inside(schema))
        .or_else(|| image(schema))
        .or_else(|| server(schema))
}

fn image(schema: &str) -> Option<Value> {
    const ID: &str = "sha256:0f4a6a5c2b0d5b0c7d1c2f7f4d4e2f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e";
    const DIGEST: &str = "sha256:5a1b9c7d3e2f4a6b8c0d1e3f5a7b9c1d3e5f7a9b1c3d5e7f9a1b3c5d7e9f1a3b";
    let line = json!({
        "name": "python:3.12", "id": ID, "digest": DIGEST, "size": 131_072_000, "entries": 5210,
        "layers": 5, "platform": "linux/amd64", "created": "2026-01-02T03:04:05Z",
    });
    let layer = json!({"diff_id": DIGEST, "size": 78_643_200, "entries": 3321});
    let settings = json!({
        "env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "working_dir": "/app", "user": "web",
        "entrypoint": [], "cmd": ["python3"], "exposed_ports": ["8080/tcp"], "volumes": [],
        "labels": {},
    });
    Some(match schema {
        "ImageInfo" => line,
        "ImageSettings" => settings,
        "ImageLayer" => layer,
        "ImageDetails" => {
            let mut details = line;
            details["names"] = json!(["docker.io/library/python:3.12"]);
            details["made"] = json!("2026-01-01T00:00:00Z");
            details["config"] = settings;
            details["layer_list"] = json!([layer]);
            details
        }
        "PullImageRequest" => json!({"image": "python:3.12"}),
        "PulledImage" => json!({"image": line, "cached": false, "downloaded": 48_234_496}),
        "PullLine" => json!({
            "status": "layer", "digest": DIGEST, "size": 48_234_496, "stage": "downloading",
            "done": 1_048_576,
        }),
        "PullLines" => json!(
            "{\"status\":\"resolved\",\"digest\":\"sha256:5a1b…\",\"layers\":5,\"bytes\":48234496}\n\
             {\"status\":\"error\",\"error\":{\"code\":\"PROVIDER_ERROR\",\"message\":\"…\"}}\n"
        ),
        "PruneImagesRequest" => json!({"all": true, "dry_run": true}),
        "TagImageRequest" => json!({"image": "python:3.12", "name": "team/python"}),
        "ImagesRemoved" => json!({
            "names": ["docker.io/library/python:3.12"], "images": [ID], "layers": [DIGEST],
            "freed": 131_072_000,
        }),
        "ImageArchive" => json!("the bytes of a tar file"),
        _ => return None,
    })
}

fn sandbox(schema: &str) -> Option<Value> {
    Some(match schema {
        "Sandbox" => json!({
            "id": "sb-0123abcd", "state": "running", "provider": "native", "image": "host",
            "memory_mb": 512, "vcpus": 1, "owner_id": "alice", "isolation": "container",
            "created_at": "2026-01-02T03:04:05.678901Z",
            "expires_at": "2026-01-02T03:34:05.678901Z",
            "metadata": {"task": "tests"}, "preview_domain": "localhost:7423",
        }),
        "SpawnRequest" => json!({
            "ttl": "30m", "memory_mb": 512, "vcpus": 1,
            "env": {"LANG": "C.UTF-8"}, "metadata": {"task": "tests"},
        }),
        "Admission" => json!({
            "allowed": true, "queueable": false, "reason": "", "active_sandboxes": 3,
            "max_sandboxes": 100, "active_owner_sandboxes": 1, "max_owner_sandboxes": 0,
            "max_ttl": "24h0m0s",
        }),
        "SandboxStats" => json!({
            "supported": true, "cpu_pct": 12.5, "mem_bytes": 7_340_032,
            "mem_limit_bytes": 536_870_912, "pids": 4, "disk_bytes": 40_960,
            "net_rx_bytes": 0, "net_tx_bytes": 0,
        }),
        "NetworkRequest" => json!({"allow_domains": ["example.org", "*.example.com"]}),
        "NetworkRules" => json!({"allow_domains": ["example.org", "*.example.com"]}),
        "NetworkInfo" => {
            json!({"mode": "bridge", "allow_domains": ["example.org", "*.example.com"]})
        }
        "PreviewLinkRequest" => json!({"port": 3000, "expires_in": "1h"}),
        "PreviewLink" => json!({
            "url": "http://3000-sb-0123abcd.localhost:7423/?stacyvm_token=v1.…",
            "expires_at": "2026-01-02T04:04:05Z",
        }),
        "ExtendRequest" => json!({"ttl": "1h"}),
        "PruneResult" => json!({"pruned": 2}),
        _ => return None,
    })
}

fn inside(schema: &str) -> Option<Value> {
    Some(match schema {
        "ExecRequest" => json!({
            "command": "python3 -c 'print(6 * 7)'", "timeout": "30s",
            "env": {"PYTHONUNBUFFERED": "1"},
        }),
        "ExecResponse" => json!({
            "exit_code": 0, "stdout": "42\n", "stderr": "", "duration": "31.4ms",
        }),
        "Quota" => json!({
            "owner_id": "alice", "max_sandboxes": 5, "max_ttl": "2h0m0s",
            "created_at": "2026-01-02T03:04:05.678901Z",
            "updated_at": "2026-01-02T03:04:05.678901Z",
        }),
        "QuotaRequest" => json!({"owner_id": "alice", "max_sandboxes": 5, "max_ttl": "2h"}),
        "QuotaSummary" => json!({
            "total": 2, "with_max_sandboxes": 2, "with_max_ttl": 1, "with_max_exec_timeout": 0,
        }),
        "TicketRequest" => json!({"path": "/api/v1/events"}),
        "Ticket" => json!({
            "ticket": "tk-0123456789abcdef", "expires_at": "2026-01-02T03:05:05.678901Z",
        }),
        "Event" => json!({
            "id": "evt-7000000000000001", "type": "exec.completed", "sandbox_id": "sb-0123abcd",
            "timestamp": "2026-01-02T03:04:05.678901Z",
            "data": {"exec_id": "ex-1", "exit_code": 0, "duration": "31.4ms"},
        }),
        "EventStream" => json!(
            "id: evt-7000000000000001\ndata: {\"id\":\"evt-7000000000000001\",\"type\":\
             \"sandbox.running\",\"sandbox_id\":\"sb-0123abcd\",\"timestamp\":\
             \"2026-01-02T03:04:05.678901Z\"}\n\n"
        ),
        "ExecInfo" => json!({
            "exec_id": "ex-1", "state": "exited", "argv": ["/bin/sh", "-c", "make test"],
            "pid": 7, "tty": false, "detached": true,
            "started_at": "2026-01-02T03:04:05.678901Z", "exit_code": 0, "reason": "exit",
            "duration": "31.4ms", "log_start": 0, "log_end": 4096,
        }),
        "StdinRequest" => json!({"data": "yes\n", "close": true}),
        "SignalRequest" => json!({"signal": "SIGINT"}),
        "ResizeRequest" => json!({"cols": 120, "rows": 40}),
        "StreamLine" => json!({"stream": "stdout", "data": "42\n"}),
        "NdjsonLines" => json!(
            "{\"stream\":\"stdout\",\"data\":\"42\\n\"}\n{\"stream\":\"exit\",\"data\":\"\",\
             \"exit_code\":0,\"duration\":\"31.4ms\"}\n"
        ),
        "FileInfo" => json!({
            "name": "main.py", "path": "/workspace/main.py", "size": 12, "mode": "0644",
            "is_dir": false, "is_symlink": false, "owner": "user", "group": "user",
            "mod_time": "2026-01-02T03:04:05.678901Z",
        }),
        "WriteFileRequest" => json!({"path": "/workspace/main.py", "content": "print(6 * 7)"}),
        "MoveFileRequest" => json!({"old_path": "main.py", "new_path": "src/main.py"}),
        "ChangeModeRequest" => json!({"path": "main.py", "mode": "0755"}),
        "MakeDirectoryRequest" => json!({"path": "/workspace/src"}),
        "FileContent" => json!("print(6 * 7)"),
        "TarArchive" => json!("the bytes of a tar file"),
        _ => return None,
    })
}

fn server(schema: &str) -> Option<Value> {
    let provider = json!({
        "name": "native", "healthy": true, "default": true, "isolation": "container",
        "latency_ms": 3.2, "last_checked": "2026-01-02T03:04:05.678901Z",
        "capabilities": ["exec", "files", "logs", "stats"], "runtime_count": 3,
    });
    Some(match schema {
        "ApiError" => json!({
            "code": "NOT_FOUND", "message": "sandbox \"sb-0123abcd\" not found",
        }),
        "ProviderInfo" => provider,
        "ProviderDetail" => {
            let mut detail = provider;
            detail["sandbox_count"] = json!(3);
            detail["config"] = json!({"default_image": "host"});
            detail["degradations"] = json!([]);
            detail
        }
        "EmptyList" => json!([]),
        "PoolStatus" => json!({"enabled": false}),
        "Health" => json!({"status": "ok", "version": "0.1.0", "uptime": "1h2m3.4s"}),
        "ProbeStatus" => json!({"status": "ready", "uptime": "1h2m3.4s"}),
        "Metrics" => json!({
            "uptime": "1h2m3.4s", "active_sandboxes": 3, "total_sandboxes": 40,
            "memory_alloc": 31_457_280,
            "sandboxes": {
                "total": 40, "active": 3, "by_state": {"running": 3},
                "by_provider": {"native": 3},
            },
            "active_execs": 1, "expired_sandboxes": 5, "reconcile_actions": 0,
            "operations": [{
                "operation": "exec", "provider": "native", "count": 120, "errors": 0,
                "avg_ms": 14.5,
            }],
        }),
        _ => return None,
    })
}
