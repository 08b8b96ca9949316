// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ControlServer: speaks with all clients of the control socket.
//
// Two threads. One does all input and output, and never waits for anything but
// that; it greets, negotiates, refuses what is wrong, and answers what needs no
// disk. The other runs commands, one at a time, in the order in which they came,
// one of each client. So a command that takes long keeps other commands waiting,
// which would have to wait for the disk anyway, and nobody else.
//
// What a client can cost is bounded: it is not read from while its command runs or
// while it does not take its answers, and one that lets events pile up is dropped.
// There are at most clients_max: one more takes the place of the one that has been
// silent the longest, first of one that has not even negotiated.
//
// What was sent is done, also if the client has gone meanwhile.

#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <condition_variable>
#include <string>
#include <thread>
#include <vector>

#include "core/control/host.h"
#include "core/control/monitor.h"

namespace qcow2 {

class ControlServer {
public:
    static constexpr std::size_t clients_max = 32;

    // listening: a socket that does not block. It and the host outlive the server.
    ControlServer(int listening, Host &host);
    ~ControlServer();
    ControlServer(const ControlServer &) = delete;
    ControlServer &operator=(const ControlServer &) = delete;

    // The command that is under way is finished and answered; those that wait are not
    // begun, and all clients have gone. One thread.
    void stop();

    // To all clients that have negotiated. Any thread; waits for nobody. After stop()
    // it does nothing.
    void tell(std::string_view event, const Json &data);

private:
    using ClientId = std::uint64_t;
    struct Client;
    struct Order {
        ClientId client;
        Monitor::Turn turn;
    };
    struct Answer {
        ClientId client;
        std::string line;
        bool ends_server;
    };

    void run_commands();
    void run(const Order &order);
    void look_at_leases_well();
    void run_io();
    void wait_for_io();
    void accept_clients();
    bool accept_client();
    bool drop_silent();
    void deliver();
    void serve(Client &client);
    void receive(Client &client);
    void advance(Client &client);
    void say(Client &client, const std::string &line);
    void send(Client &client);
    void wake();

    const int listening_;
    Host &host_;
    int wake_ = -1;  // an eventfd

    std::mutex mutex_;
    std::condition_variable ordered_;
    std::deque<Order> orders_;
    std::vector<Answer> answers_;
    std::vector<std::string> events_;
    bool stop_commands_ = false;
    bool stop_io_ = false;

    // Of the thread that does input and output.
    std::map<ClientId, std::unique_ptr<Client>> clients_;
    ClientId next_id_ = 0;
    std::uint64_t heard_ = 0;  // how often somebody was
    bool accepting_ = true;    // false for a moment, after an error

    std::thread commands_thread_;
    std::thread io_thread_;
};

}  // namespace qcow2
