// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/control_server.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <new>
#include <utility>

#include <nbdkit-filter.h>

#include "core/base/log.h"
#include "filter/messages.h"
#include "filter/quiet_thread.h"

namespace qcow2 {

namespace {

constexpr std::size_t receive_bytes = 64 << 10;
// A client that has so much to read already is not asked what else it wants.
constexpr std::size_t answers_max = 64 << 10;
// A client that lets so many bytes of events wait is dropped.
constexpr std::size_t events_max = 256 << 10;
// How long nobody is accepted where the process has no descriptor left.
constexpr int pause_ms = 1000;
constexpr std::chrono::seconds lease_look(1);

}  // namespace

struct ControlServer::Client {
    explicit Client(int descriptor) : descriptor(descriptor) {}
    ~Client() { ::close(descriptor); }
    Client(const Client &) = delete;
    Client &operator=(const Client &) = delete;

    // Whether what it says now would be looked at.
    bool is_free() const { return !busy && !monitor.ended() && output.size() < answers_max; }
    // Whether it may say something now; and whether it has said more already.
    bool is_heard() const { return is_free() && waits && !has_ended; }
    bool has_more() const { return is_free() && !waits; }
    // Whether it is done with.
    bool is_over() const
    {
        return dropped || (!busy && output.empty() && (monitor.ended() || (has_ended && waits)));
    }

    const int descriptor;
    Monitor monitor;
    std::string output;
    std::size_t events_bytes = 0;  // of output: at most so many are events
    std::uint64_t heard = 0;       // when, by the server's count
    short happened = 0;            // what poll() has told
    bool waits = true;             // for more from the client
    bool busy = false;             // its command waits or runs
    bool has_ended = false;        // it has sent all
    bool is_deaf = false;          // it takes no answers any more
    bool dropped = false;
    ClientId id = 0;
};

ControlServer::ControlServer(int listening, Host &host)
    : listening_(listening), host_(host), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK))
{
    commands_thread_ = start_quiet_thread([this] { run_commands(); });
    io_thread_ = start_quiet_thread([this] { run_io(); });
}

ControlServer::~ControlServer()
{
    stop();
    ::close(wake_);
}

void ControlServer::stop()
{
    if (!io_thread_.joinable())
        return;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        stop_commands_ = true;
    }
    ordered_.notify_all();
    commands_thread_.join();
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        stop_io_ = true;
    }
    wake();
    io_thread_.join();
    clients_.clear();
}

void ControlServer::wake()
{
    const std::uint64_t once = 1;
    [[maybe_unused]] const ssize_t n = ::write(wake_, &once, sizeof once);
}

void ControlServer::tell(std::string_view event, const Json &data)
{
    timeval now = {};
    ::gettimeofday(&now, nullptr);
    std::string line = Monitor::event(event, data, now.tv_sec, now.tv_usec);
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (stop_io_)
            return;
        events_.push_back(std::move(line));
    }
    wake();
}

// --- Commands.

// Only here are leases begun and ended. Where there are none nobody wakes up.
void ControlServer::run_commands()
{
    const auto called = [this] { return stop_commands_ || !orders_.empty(); };
    auto next_look = std::chrono::steady_clock::now();
    for (;;) {
        std::unique_lock<std::mutex> lock(mutex_);
        if (host_.leases.none())
            ordered_.wait(lock, called);
        else
            ordered_.wait_until(lock, next_look, called);
        if (stop_commands_)
            return;
        if (!orders_.empty()) {
            const Order order = std::move(orders_.front());
            orders_.pop_front();
            lock.unlock();
            run(order);
        } else {
            lock.unlock();
        }
        if (const auto now = std::chrono::steady_clock::now(); now >= next_look) {
            next_look = now + lease_look;
            look_at_leases_well();
        }
    }
}

void ControlServer::run(const Order &order)
{
    const Result<Json> done =
        guarded([&] { return run_command(*order.turn.command, host_, order.turn.arguments); });
    Answer answer{order.client, Monitor::answer(order.turn.id, done), host_.ending()};
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        answers_.push_back(std::move(answer));
    }
    wake();
}

void ControlServer::look_at_leases_well()
{
    const Result<void> done = guarded([this]() -> Result<void> {
        look_at_leases(host_);
        return {};
    });
    if (!done)
        log_debug("control: {}", done.error().what);
}

// --- Input and output.

void ControlServer::run_io()
{
    for (;;) {
        wait_for_io();
        deliver();
        for (auto &[id, client] : clients_)
            serve(*client);
        std::erase_if(clients_, [](const auto &entry) { return entry.second->is_over(); });
        accept_clients();
        const std::lock_guard<std::mutex> lock(mutex_);
        if (stop_io_ && answers_.empty())
            return;
    }
}

void ControlServer::wait_for_io()
{
    std::vector<pollfd> watched = {{wake_, POLLIN, 0}, {accepting_ ? listening_ : -1, POLLIN, 0}};
    int timeout = accepting_ ? -1 : pause_ms;
    for (const auto &[id, client] : clients_) {
        if (client->has_more())
            timeout = 0;
        const short wanted = static_cast<short>((client->is_heard() ? POLLIN : 0) |
                                                (client->output.empty() ? 0 : POLLOUT));
        // From a client of which nothing is wanted poll() does not tell that it is gone, either.
        watched.push_back({wanted == 0 ? -1 : client->descriptor, wanted, 0});
    }
    ::poll(watched.data(), watched.size(), timeout);
    accepting_ = true;
    std::uint64_t woken;
    [[maybe_unused]] const ssize_t n = ::read(wake_, &woken, sizeof woken);
    std::size_t i = 2;
    for (auto &[id, client] : clients_)
        client->happened = watched[i++].revents;
}

// What the other threads have for clients.
void ControlServer::deliver()
{
    std::vector<Answer> answers;
    std::vector<std::string> events;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        answers.swap(answers_);
        events.swap(events_);
    }
    for (auto &[id, client] : clients_) {
        if (!client->monitor.negotiated())
            continue;
        for (const std::string &event : events) {
            say(*client, event);
            client->events_bytes += event.size();
        }
        client->dropped |= client->events_bytes > events_max;
    }
    bool ends_server = false;
    for (Answer &answer : answers) {
        ends_server |= answer.ends_server;
        const auto found = clients_.find(answer.client);
        if (found == clients_.end())
            continue;
        found->second->busy = false;
        say(*found->second, answer.line);
        send(*found->second);
    }
    if (ends_server)
        nbdkit_shutdown();
}

void ControlServer::serve(Client &client)
{
    try {
        if ((client.happened & (POLLIN | POLLHUP | POLLERR)) && client.is_heard())
            receive(client);
        advance(client);
        send(client);
    } catch (const std::bad_alloc &) {
        client.dropped = true;
    }
}

void ControlServer::receive(Client &client)
{
    char bytes[receive_bytes];
    const ssize_t n = ::recv(client.descriptor, bytes, sizeof bytes, 0);
    if (n == -1 && (errno == EAGAIN || errno == EINTR))
        return;
    client.heard = ++heard_;
    client.waits = false;
    if (n > 0)
        client.monitor.take({bytes, static_cast<std::size_t>(n)});
    else
        client.has_ended = true;
}

// Answers what the client has said, as far as that goes.
void ControlServer::advance(Client &client)
{
    while (client.is_free()) {
        auto turn = client.monitor.next();
        client.waits = !turn;
        if (!turn)
            return;
        if (turn->command) {
            client.busy = true;
            const std::lock_guard<std::mutex> lock(mutex_);
            orders_.push_back({client.id, *std::move(turn)});
            ordered_.notify_all();
        } else {
            say(client, turn->answer);
        }
    }
}

// A client that cannot be told what it should know is dropped.
void ControlServer::say(Client &client, const std::string &line)
{
    if (client.is_deaf)
        return;
    try {
        client.output += line;
    } catch (const std::bad_alloc &) {
        client.dropped = true;
    }
}

void ControlServer::send(Client &client)
{
    while (!client.output.empty()) {
        const ssize_t n =
            ::send(client.descriptor, client.output.data(), client.output.size(), MSG_NOSIGNAL);
        if (n == -1 && errno == EINTR)
            continue;
        if (n == -1 && errno == EAGAIN)
            return;
        if (n == -1) {
            client.is_deaf = true;
            client.output.clear();
        } else {
            client.output.erase(0, static_cast<std::size_t>(n));
        }
    }
    client.events_bytes = 0;
}

void ControlServer::accept_clients()
{
    for (std::size_t n = 0; accepting_ && n < clients_max && accept_client(); ++n)
        continue;
}

bool ControlServer::accept_client()
{
    const int descriptor = ::accept4(listening_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (descriptor == -1) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
            accepting_ = false;
        return errno == EINTR || errno == ECONNABORTED;
    }
    auto client = std::make_unique<Client>(descriptor);
    if (clients_.size() >= clients_max && !drop_silent())
        return true;  // all are at work: this one is sent away
    client->heard = ++heard_;
    client->id = next_id_++;
    client->output = Monitor::greeting();
    send(*client);
    clients_.emplace(client->id, std::move(client));
    return true;
}

// Makes room for one more.
bool ControlServer::drop_silent()
{
    const Client *silent = nullptr;
    const auto rank = [](const Client &client) {
        return std::pair(client.monitor.negotiated(), client.heard);
    };
    for (const auto &[id, client] : clients_)
        if (!client->busy && (!silent || rank(*client) < rank(*silent)))
            silent = client.get();
    if (!silent)
        return false;
    log_debug("control: there are {} clients; the one that was silent the longest is dropped for "
              "another",
              clients_max);
    clients_.erase(silent->id);
    return true;
}

}  // namespace qcow2
