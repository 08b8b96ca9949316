// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ServedImage: what one server has of one image: the file's lock, the store, the
// disk, and the thread that watches for idleness. All clients share it.
//
//   get_ready()      what a local file can tell is told at the prompt;
//   connect()        before each client; the first one opens all, because only
//                    then it is known whether the server is read-only (-r);
//   enter()          when a client is let in, to one of the exports; before the first
//                    that may write, what the keys ask for is done;
//   leave()          when a client has gone; after the last one the file is
//                    brought to what a clean stop leaves;
//   close()          after the last client.
//
// A maintenance key (maintenance.h) makes it work instead: in get_ready() on a
// local file, and that ends the process; else in after_fork(), and then the
// server is told to end, unload() sets its exit code, and no client is let in.
//
// A failure of connect() or enter() turns that client away; the next
// one tries again, for the cause may have passed. So also if the image could
// not be opened anew after a change of its structure: nobody is let in, and
// when nobody is inside, the next connect() opens all from the beginning. Not
// after a flush that failed: what the file shows may not be what it has (W5).

#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <nbdkit-filter.h>

#include "core/base/mutex.h"
#include "core/base/result.h"
#include "core/control/host.h"
#include "core/disk.h"
#include "filter/config.h"
#include "filter/exports.h"
#include "filter/image_lock.h"
#include "filter/modules_below.h"

namespace qcow2 {

class ControlEvents;
class ControlHost;
class ControlServer;
class ControlSocket;
class IdleThread;
class LocalFile;
class NextStore;

class ServedImage {
public:
    // There is one.
    static ServedImage &of_server();

    Config &config() { return config_; }

    Result<void> get_ready(const ModulesBelow &below, int thread_model) EXCLUDES(mutex_);
    Result<void> after_fork(nbdkit_backend *backend) EXCLUDES(mutex_);
    Result<void> connect(nbdkit_backend *backend, bool read_only) EXCLUDES(mutex_);
    // What the client is served, by its name. The caller destroys it before leave().
    Result<std::unique_ptr<Export>> enter(bool read_only, std::string_view export_name)
        EXCLUDES(mutex_);
    void leave(const std::string &export_name) EXCLUDES(mutex_);
    // As a client that has connected and may do what the server may; for the control
    // channel, which leaves by end_visit().
    Result<Disk *> visit() EXCLUDES(mutex_);
    void end_visit() EXCLUDES(mutex_);
    // The file is brought to what a clean stop leaves, while clients are connected, and
    // stays so, free for others: nobody is served any more.
    Result<void> quit() EXCLUDES(mutex_);
    bool ending() const { return ending_.load(); }
    // A request has failed: those who watch are told. Any thread.
    void request_failed(std::string_view operation, const Error &error);
    // What the server knows; clients: without those who visit.
    HostState state() EXCLUDES(mutex_);
    unsigned clients_of(const std::string &export_name) EXCLUDES(mutex_);
    Result<void> close() EXCLUDES(mutex_);
    // The last call. Does not return if maintenance has set an exit code, or
    // close() has failed.
    void unload() EXCLUDES(mutex_);

    // Between connect() and close().
    bool rotational() const;
    // What a client may ask for.
    Result<std::vector<ExportName>> exports() EXCLUDES(mutex_);

private:
    ServedImage();
    ~ServedImage();

    void warn_of_clients_that_vanish() const;
    Result<void> look_at_file() REQUIRES(mutex_);
    Result<void> look_at_file_as_server() REQUIRES(mutex_);
    Result<void> check_retrying() const;
    ImageLock::Kind lock_at_prompt() const REQUIRES(mutex_);
    DiskOptions disk_options() REQUIRES(mutex_);
    Result<void> check_image() REQUIRES(mutex_);
    Result<void> rehearse(ByteStore &store) REQUIRES(mutex_);
    Result<void> check_maintenance_key() REQUIRES(mutex_);
    Result<void> check_foreground() const REQUIRES(mutex_);
    bool maintain_at_prompt() const REQUIRES(mutex_);
    Result<void> maintain_file() REQUIRES(mutex_);
    Result<void> maintain_layer(nbdkit_backend *backend) REQUIRES(mutex_);
    Result<void> maintain(ByteStore &store) REQUIRES(mutex_);
    void find_output() REQUIRES(mutex_);
    Result<void> print(std::string_view text) const REQUIRES(mutex_);
    std::string why_size_is_kept() const REQUIRES(mutex_);
    Result<void> open(nbdkit_backend *backend, bool read_only) REQUIRES(mutex_);
    Result<void> create() REQUIRES(mutex_);
    Result<void> repair_if_dirty(ByteStore &store, DiskOptions options) REQUIRES(mutex_);
    void abandon() REQUIRES(mutex_);
    bool may_open_anew() const REQUIRES(mutex_);
    Result<void> find_file() REQUIRES(mutex_);
    Result<void> hold_file() REQUIRES(mutex_);
    void say_once(const std::string &line) REQUIRES(mutex_);
    void say_what_is_missing(const Disk &disk) REQUIRES(mutex_);
    void announce(const Disk &disk) REQUIRES(mutex_);
    void report(const Disk &disk, bool at_prompt) REQUIRES(mutex_);
    void say_what_is_there(bool read_only) REQUIRES(mutex_);
    Result<void> check_open() const REQUIRES(mutex_);
    Result<void> let_in(bool read_only) EXCLUDES(mutex_);
    Result<void> begin_writing() REQUIRES(mutex_);
    void let_go() EXCLUDES(mutex_);
    Result<void> bind_control() REQUIRES(mutex_);
    Result<void> begin_control(nbdkit_backend *backend) REQUIRES(mutex_);
    void stop_control() EXCLUDES(mutex_);
    void end_control();

    // Constant after get_ready().
    Config config_;
    ModulesBelow below_;
    bool serialised_ = false;

    Mutex mutex_{Rank::served_image};
    std::unique_ptr<LocalFile> file_ GUARDED_BY(mutex_);
    std::unique_ptr<ImageLock> lock_ GUARDED_BY(mutex_);
    bool writing_ GUARDED_BY(mutex_) = false;
    unsigned clients_ GUARDED_BY(mutex_) = 0;
    std::map<std::string, unsigned> clients_of_ GUARDED_BY(mutex_);  // by the name of their export
    unsigned visitors_ GUARDED_BY(mutex_) = 0;  // of clients_, the control channel
    unsigned leaving_ GUARDED_BY(mutex_) = 0;   // no clients any more, but wait for idle_
    bool read_only_said_ GUARDED_BY(mutex_) = false;
    bool announced_ GUARDED_BY(mutex_) = false;
    std::optional<int> exit_code_
        GUARDED_BY(mutex_);  // of maintenance, done or failed; or of close()
    std::set<std::string> reported_ GUARDED_BY(mutex_);  // lines, said once each
    int output_ GUARDED_BY(mutex_) = -1;                 // where its result is printed

    // Set and reset under mutex_, while no client uses them.
    std::unique_ptr<NextStore> store_;
    std::unique_ptr<Disk> disk_;
    std::unique_ptr<Exports> exports_;  // as long as the disk
    std::unique_ptr<IdleThread> idle_;

    std::atomic<bool> ending_{false};    // quit() has been here
    nbdkit_backend *backend_ = nullptr;  // set once, before the control channel is served
    std::string nbd_uri_;                // constant after get_ready()
    std::unique_ptr<ControlSocket> control_socket_;
    std::unique_ptr<ControlHost> control_host_;
    std::unique_ptr<ControlServer> control_;
    std::unique_ptr<ControlEvents> control_events_;
};

}  // namespace qcow2
